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
    run_bare_unit,
    run_pooled_unit,
    run_unit,
    touched,
)
from resnet_cuda.ops import global_avg_pool, max_pool2d
from resnet_cuda.ops.max_pool2d import PoolWindow

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
            ("conv1", conv_blocker(module.conv1)),
            ("bn1", batch_norm_blocker(module.bn1)),
            (activation, touched(getattr(module, activation), nn.ReLU)),
        )
        for name, reason in checks:
            if reason is not None:
                return f"{name} {reason}"
        return None

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        # A deep stem's conv1 is an nn.Sequential, which can be fused on its own.
        return [m for m in (module.conv1, module.bn1) if not isinstance(m, nn.Sequential)]

    @classmethod
    def note_of(cls, module: Any) -> str:
        pooled = _pool_window(module.maxpool) is not None
        return "stem: conv1 + bn1 + relu" + (" + maxpool" if pooled else "")

    def run_stem(self, x: Tensor) -> Tensor:
        """maxpool(relu(bn1(conv1(x)))) for x [N, C, H, W], fused where the children allow it."""
        if is_traced(x):
            return self.maxpool(getattr(self, self.stem_activation)(self.bn1(self.conv1(x))))
        window = _pool_window(self.maxpool)
        if self.blocker() is not None:
            z = getattr(self, self.stem_activation)(self.bn1(self.conv1(x)))
            return self.maxpool(z) if window is None else max_pool2d(z, *window)
        cache = partial(self.folded, "conv1")
        if window is None:
            return self.maxpool(run_unit(x, self.conv1, self.bn1, True, cache))
        return run_pooled_unit(x, self.conv1, self.bn1, cache, window)


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


class FusedPreActResNet(FusedModule):
    """Mixin for this package's pre-activation network: its first convolution and its average pool are ours, too."""

    stage_names: tuple[str, ...]
    conv1: Any
    final: Any
    avgpool: Any
    fc: Any

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

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x) or self.blocker() is not None:
            x = self.conv1(x)
        else:
            x = run_bare_unit(x, self.conv1)
        for name in self.stage_names:
            x = getattr(self, name)(x)
        x = run_global_pool(self.avgpool, self.final(x))
        return self.fc(torch.flatten(x, 1))


def run_global_pool(pool: Any, x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1] where `pool` is a plain global average pool, else whatever `pool` does."""
    plain = touched(pool, nn.AdaptiveAvgPool2d) is None and pool.output_size in (1, (1, 1))
    return global_avg_pool(x) if plain and not is_traced(x) else pool(x)


def _pool_window(pool: Any) -> PoolWindow | None:
    """The window where `max_pool2d` computes the same as `pool`, else None."""
    if touched(pool, nn.MaxPool2d) is not None:
        return None
    window = (pool.kernel_size, pool.stride, pool.padding)
    if pool.dilation != 1 or pool.ceil_mode or pool.return_indices:
        return None
    return PoolWindow(*window) if all(isinstance(value, int) for value in window) else None
