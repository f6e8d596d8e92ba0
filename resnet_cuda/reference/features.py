"""Feature maps in plain torch: the readable oracles of those in `resnet_cuda.models`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from resnet_cuda.reference.preact_resnet import PreActResNet
from resnet_cuda.reference.resnet import ResNet

_HEAD = ("avgpool", "fc")


class _Features(nn.Module):
    """A network without its classifier's head: maps of the stem (index 0) and of the stages."""

    network_class: ClassVar[type[ResNet] | type[PreActResNet]]
    stage_names: tuple[str, ...]

    def __init__(self, network: nn.Module, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        if not isinstance(network, self.network_class):
            raise TypeError(
                f"network is a {type(network).__name__}; expected a {self.network_class.__name__} of this package: "
                "feature maps of others are not defined here"
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
                maps.append(self._map(x, i))
        return maps

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """(the stem's activation if it is wanted, what the first stage reads)."""
        raise NotImplementedError

    def _map(self, x: Tensor, index: int) -> Tensor:
        """The map of a stage, of its output x."""
        return x


class ResNetFeatures(_Features):
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

    network_class = ResNet
    conv1: nn.Module
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        z = self.relu(self.bn1(self.conv1(x)))
        return (z if 0 in self.out_indices else None), self.maxpool(z)


class PreActResNetFeatures(_Features):
    """`ResNetFeatures` of a network of pre-activation blocks.

    Index 0 is the first convolution's output, i the output of stage i, all before the batch norm and ReLU with which
    the next stage begins; the last stage's map has had `final`'s. Arguments, attributes and errors are those of
    `ResNetFeatures`, with a PreActResNet as the network.
    """

    network_class = PreActResNet
    conv1: nn.Module
    final: nn.Module

    def _stem(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        x = self.conv1(x)
        return (x if 0 in self.out_indices else None), x

    def _map(self, x: Tensor, index: int) -> Tensor:
        return self.final(x) if index == len(self.stage_names) else x
