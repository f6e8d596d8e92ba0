"""A ResNet's feature maps in plain torch: the readable oracle of `resnet_cuda.models.ResNetFeatures`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from resnet_cuda.reference.resnet import ResNet

_HEAD = ("avgpool", "fc")


class ResNetFeatures(nn.Module):
    """x [N, C, H, W] -> a list of feature maps [N, channels, ceil(H / reduction), ceil(W / reduction)].

    Index 0 is the stem's activation before its max-pool, i the output of stage i. State-dict keys are the classifier's
    without `fc`'s. Every stage is kept; those behind the last index do not run.

    Args:
        network: takes over its children but for the classifier's head.
        out_indices: which maps, in ascending order; None: all stages.

    Attributes:
        feature_info: channels and reduction of each map returned.

    Raises:
        TypeError: network is not a ResNet of this package.
        ValueError: out_indices empty, not ascending or beyond the stages.
    """

    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module

    def __init__(self, network: nn.Module, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(network, ResNet):
            raise TypeError(
                f"network is a {type(network).__name__}; expected a ResNet of this package: feature maps of others are "
                "not defined here"
            )
        stages = len(network.stage_names)
        indices = tuple(range(1, stages + 1)) if out_indices is None else tuple(out_indices)
        if not indices or list(indices) != sorted({i for i in indices if 0 <= i <= stages}):
            raise ValueError(
                f"out_indices={indices}: expected ascending indices from 0 (the stem) to {stages} (the last stage)"
            )
        self.stage_names = network.stage_names
        self.out_indices = indices
        self.feature_info = tuple(network.feature_info[i] for i in indices)
        for name, child in network.named_children():
            if name not in _HEAD:
                self.add_module(name, child)

    def forward(self, x: Tensor) -> list[Tensor]:
        first, x = self._stem(x)
        maps = [] if first is None else [first]
        for i, name in enumerate(self.stage_names[: self.out_indices[-1]], start=1):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                maps.append(x)
        return maps

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """(the stem's activation if it is wanted, what the first stage reads)."""
        z = self.relu(self.bn1(self.conv1(x)))
        return (z if 0 in self.out_indices else None), self.maxpool(z)
