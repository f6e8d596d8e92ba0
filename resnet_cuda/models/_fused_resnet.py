"""The part of a ResNet outside its stages - stem, max-pool, average pool - as fused calls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import (
    batch_norm_blocker,
    conv_blocker,
    pool_window,
    run_bare_unit,
    run_pooled_unit,
    run_unit,
    touched,
)
from resnet_cuda.nn.fused_stage import FusedStage
from resnet_cuda.ops import global_avg_pool, max_pool2d

_TORCHVISION_STAGES = ("layer1", "layer2", "layer3", "layer4")


class FusedStem(FusedModule):
    """A network that begins with `conv1`, `bn1`, an activation and `maxpool`."""

    stem_activation: ClassVar[str] = "relu"
    conv1: Any
    bn1: Any
    maxpool: Any

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        activation = cls.stem_activation
        checks = (
            ("conv1", conv_blocker(_last_convolution(module.conv1))),
            ("bn1", batch_norm_blocker(module.bn1)),
            (activation, touched(getattr(module, activation), nn.ReLU)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        # What stands before a deep stem's last convolution is fused on its own.
        return [_last_convolution(module.conv1), module.bn1]

    @classmethod
    def note_of(cls, module: Any) -> str:
        pooled = pool_window(module.maxpool) is not None
        return "stem: conv1 + bn1 + relu" + (" + maxpool" if pooled else "")

    def run_stem(self, x: Tensor) -> Tensor:
        """maxpool(relu(bn1(conv1(x)))) for x [N, C, H, W], fused where the children allow it."""
        window = pool_window(self.maxpool)
        if window is None or is_traced(x) or self.blocker() is not None:
            return self.run_pool(self.run_activation(x))
        x, conv = self._run_front(x)
        return run_pooled_unit(x, conv, self.bn1, partial(self.folded, "conv1"), window)

    def run_activation(self, x: Tensor) -> Tensor:
        """relu(bn1(conv1(x))), fused where the children allow it."""
        if is_traced(x) or self.blocker() is not None:
            z: Tensor = getattr(self, self.stem_activation)(self.bn1(self.conv1(x)))
            return z
        x, conv = self._run_front(x)
        return run_unit(x, conv, self.bn1, True, partial(self.folded, "conv1"))

    def run_pool(self, z: Tensor) -> Tensor:
        """maxpool(z), by our kernel where it computes the same."""
        window = None if is_traced(z) else pool_window(self.maxpool)
        return self.maxpool(z) if window is None else max_pool2d(z, *window)

    def _run_front(self, x: Tensor) -> tuple[Tensor, nn.Module]:
        """What stands before the stem's last convolution, of x; and that convolution."""
        conv = _last_convolution(self.conv1)
        if conv is not self.conv1:
            front = list(self.conv1)[:-1]
            if isinstance(self.conv1, FusedStage):
                x = self.conv1.run_row(front, x)
            else:
                for child in front:
                    x = child(x)
        return x, conv


class FusedResNet(FusedStem):
    """Mixin for torchvision's ResNet and this package's own."""

    avgpool: Any
    fc: Any

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for name in getattr(self, "stage_names", _TORCHVISION_STAGES):
            x = getattr(self, name)(x)
        x = run_global_pool(self.avgpool, x)
        return self.fc(torch.flatten(x, 1))


class FusedTimmResNet(FusedStem):
    """Mixin for timm's ResNet; its head has options of its own and stays as it is."""

    stem_activation = "act1"
    grad_checkpointing: bool

    def forward_features(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            features: Tensor = super().forward_features(x)  # type: ignore[misc]
            return features
        x = self.run_stem(x)
        for name in _TORCHVISION_STAGES:
            x = getattr(self, name)(x)
        return x


class FusedBareStem(FusedModule):
    """A network that begins with `conv1` alone."""

    conv1: Any

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        reason = conv_blocker(module.conv1)
        return None if reason is None else f"conv1 {reason}"

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        return [module.conv1]

    @classmethod
    def note_of(cls, module: Any) -> str:
        return "stem: conv1"

    def run_stem(self, x: Tensor) -> Tensor:
        """conv1(x) for x [N, C, H, W]."""
        if is_traced(x) or self.blocker() is not None:
            z: Tensor = self.conv1(x)
            return z
        return run_bare_unit(x, self.conv1)


class FusedPreActResNet(FusedBareStem):
    """Mixin for this package's pre-activation network: its first convolution and its average pool are ours, too."""

    stage_names: tuple[str, ...]
    final: Any
    avgpool: Any
    fc: Any

    def forward(self, x: Tensor) -> Tensor:
        x = self.run_stem(x)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        x = run_global_pool(self.avgpool, self.final(x))
        return self.fc(torch.flatten(x, 1))


def _last_convolution(conv1: nn.Module) -> nn.Module:
    """A stem's convolution; of a deep one, an nn.Sequential, the last."""
    row = type(conv1) in (nn.Sequential, FusedStage) and touched(conv1, type(conv1)) is None
    children = list(conv1.children()) if row else []
    return children[-1] if children else conv1


def run_global_pool(pool: Any, x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1] where `pool` is a plain global average pool, else whatever `pool` does."""
    plain = touched(pool, nn.AdaptiveAvgPool2d) is None and pool.output_size in (1, (1, 1))
    return global_avg_pool(x) if plain and not is_traced(x) else pool(x)
