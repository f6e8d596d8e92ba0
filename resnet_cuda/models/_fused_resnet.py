"""The part of a ResNet outside its stages - stem, max-pool, average pool - as fused calls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._units import advance, batch_norm_call, conv_blocker, conv_unit_of, touched
from resnet_cuda.ops import conv_unit, global_avg_pool, max_pool2d

_TORCHVISION_STAGES = ("layer1", "layer2", "layer3", "layer4")


class FusedStem(FusedModule):
    """A network that begins with `conv1`, `bn1`, an activation and `maxpool`."""

    def run_stem(self, x: Tensor, activation: str) -> Tensor:
        """maxpool(relu(bn1(conv1(x)))) for x [N, C, H, W], fused where the children allow it."""
        if is_traced(x) or self.stem_blocker(activation) is not None:
            x = getattr(self, activation)(self.bn1(self.conv1(x)))
        else:
            call = batch_norm_call(self.bn1)
            folded = None if call.training else self.folded("conv1")
            image = x
            x = conv_unit(image, conv_unit_of(self.conv1, call, True, folded))
            advance([] if call.counter is None else [call.counter], image)
        window = None if is_traced(x) else _pool_window(self.maxpool)
        return self.maxpool(x) if window is None else max_pool2d(x, *window)

    def stem_blocker(self, activation: str) -> str | None:
        """Why conv1, bn1 and the activation must run one by one; None where they need not."""
        return stem_blocker(self, activation)


class FusedResNet(FusedStem):
    """Mixin for torchvision's ResNet and this package's own."""

    def _forward_impl(self, x: Tensor) -> Tensor:
        x = self.run_stem(x, "relu")
        for name in getattr(self, "stage_names", _TORCHVISION_STAGES):
            x = getattr(self, name)(x)
        x = run_global_pool(self.avgpool, x)
        return self.fc(torch.flatten(x, 1))

    def blocker(self) -> str | None:
        """Why the stem is not fused; None where it is."""
        return self.stem_blocker("relu")


class FusedTimmResNet(FusedStem):
    """Mixin for timm's ResNet; its head has options of its own and stays as it is."""

    def forward_features(self, x: Tensor) -> Tensor:
        if self.grad_checkpointing:
            features: Tensor = super().forward_features(x)
            return features
        x = self.run_stem(x, "act1")
        for name in _TORCHVISION_STAGES:
            x = getattr(self, name)(x)
        return x

    def blocker(self) -> str | None:
        """Why the stem is not fused; None where it is."""
        return self.stem_blocker("act1")


def stem_blocker(network: nn.Module, activation: str) -> str | None:
    """Why conv1, bn1 and the activation of a network cannot be one fused call; None where they can."""
    checks = (
        ("conv1", conv_blocker(network.conv1)),
        ("bn1", touched(network.bn1, nn.BatchNorm2d)),
        (activation, touched(getattr(network, activation), nn.ReLU)),
    )
    for name, reason in checks:
        if reason is not None:
            return f"{name} {reason}"
    return None


def run_global_pool(pool: nn.Module, x: Tensor) -> Tensor:
    """x [N, C, H, W] -> [N, C, 1, 1] where `pool` is a plain global average pool, else whatever `pool` does."""
    plain = touched(pool, nn.AdaptiveAvgPool2d) is None and pool.output_size in (1, (1, 1))
    return global_avg_pool(x) if plain and not is_traced(x) else pool(x)


def _pool_window(pool: nn.Module) -> tuple[int, int, int] | None:
    """(kernel, stride, padding) where `max_pool2d` computes the same as `pool`, else None."""
    if touched(pool, nn.MaxPool2d) is not None:
        return None
    window = (pool.kernel_size, pool.stride, pool.padding)
    if pool.dilation != 1 or pool.ceil_mode or pool.return_indices:
        return None
    return window if all(isinstance(value, int) for value in window) else None
