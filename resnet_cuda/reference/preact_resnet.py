"""The pre-activation network in plain torch: the readable oracle of `resnet_cuda.models.PreActResNet`.

Sources: He et al., "Identity Mappings in Deep Residual Networks", 2016 (arXiv 1603.05027, appendix: CIFAR);
Zagoruyko and Komodakis, "Wide Residual Networks", 2016 (arXiv 1605.07146, table 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnet_cuda.reference.blocks import BNReLU, NormLayer, check_shortcut, conv3x3
from resnet_cuda.reference.resnet import FeatureInfo, initialise


class PreActResNet(nn.Module):
    """x [N, in_channels, H, W] -> logits [N, num_classes]: a 3x3 convolution, stages of pre-activation blocks, and the
    batch norm and ReLU that the last block has not had.

    The first block of every stage but the first halves the image. There is no last gamma to start at zero: a block ends
    with a convolution, and the batch norm behind it is the next block's first.

    Args:
        block: PreActBasicBlock, PreActBottleneck or WideBasicBlock.
        layers: number of blocks per stage.
        num_classes: width of the classifier.
        planes: base channels per stage.
        stem_planes: channels of the first convolution's output.
        in_channels: channels of the images.
        norm_layer: makes a normalisation from a channel count; default nn.BatchNorm2d.
        shortcut: "A", "B", "C" or "none" (see `make_preactivated_shortcut`).
        block_options: further keyword arguments of every block.

    Attributes:
        feature_info: of the first convolution's output, then of each stage's.

    Raises:
        ValueError: an option outside its accepted values, or lengths that do not match `layers`.
    """

    stage_class: ClassVar[type[nn.Sequential]] = nn.Sequential
    final_class: ClassVar[type[BNReLU]] = BNReLU

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        num_classes: int = 10,
        *,
        planes: Sequence[int] = (16, 32, 64),
        stem_planes: int = 16,
        in_channels: int = 3,
        norm_layer: NormLayer | None = None,
        shortcut: str = "B",
        **block_options: Any,
    ) -> None:
        super().__init__()
        check_shortcut(shortcut)
        if not layers or len(planes) != len(layers):
            raise ValueError(
                f"planes={tuple(planes)}: expected one base width per stage, layers={tuple(layers)}"
            )
        self.conv1 = conv3x3(in_channels, stem_planes)
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(layers)))
        info = [FeatureInfo(stem_planes, 1)]
        inplanes = stem_planes
        for i, name in enumerate(self.stage_names):
            stage = []
            for j in range(layers[i]):
                stride = 2 if i > 0 and j == 0 else 1
                stage.append(
                    block(
                        inplanes,
                        planes[i],
                        stride,
                        norm_layer=norm_layer,
                        shortcut=shortcut,
                        **block_options,
                    )
                )
                inplanes = planes[i] * int(getattr(block, "expansion", 1))
            self.add_module(name, self.stage_class(*stage))
            info.append(FeatureInfo(inplanes, 2**i))
        self.feature_info = tuple(info)
        self.final = self.final_class(inplanes)
        if norm_layer is not None:
            self.final.add_module("bn", norm_layer(inplanes))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inplanes, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(self.final(x)), 1))
