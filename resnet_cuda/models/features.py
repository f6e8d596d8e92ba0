"""Feature maps for detection and segmentation, from fused networks."""

from __future__ import annotations

from torch import Tensor

from resnet_cuda.models._fused_resnet import FusedBareStem, FusedStem
from resnet_cuda.reference import features as plain


class ResNetFeatures(FusedStem, plain.ResNetFeatures):
    """The feature maps of a `ResNet`, fused as the network is; x [N, C, H, W] -> list of maps.

    Arguments, children, state-dict keys and results are those of `resnet_cuda.reference.ResNetFeatures`; see there.
    The stem's max-pool joins its convolution where index 0, the activation between them, is not wanted.
    """

    plain_class = plain.ResNetFeatures

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        if 0 not in self.out_indices:
            return None, self.run_stem(x)
        z = self.run_activation(x)
        return z, self.run_pool(z)


class PreActResNetFeatures(FusedBareStem, plain.PreActResNetFeatures):
    """The feature maps of a `PreActResNet`, fused as the network is; x [N, C, H, W] -> list of maps.

    Arguments, children, state-dict keys and results are those of
    `resnet_cuda.reference.PreActResNetFeatures`; see there.
    """

    plain_class = plain.PreActResNetFeatures

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        x = self.run_stem(x)
        return (x if 0 in self.out_indices else None), x
