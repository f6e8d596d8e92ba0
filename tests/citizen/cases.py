"""Every public op and module, and whole networks, as small modules of one input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda import models, ops
from resnet_cuda import nn as fused
from tests.networks import randomise

CHANNELS = 8  # of the input of all but the networks
UNDIFFERENTIATED = ("bottleneck_expand_reduce", "bottleneck_block")  # of inference alone


class OpOf(nn.Module):
    """function(x, self): a functional op on this module's convolutions and batch norms."""

    def __init__(self, function: Callable[[Tensor, OpOf], Any]) -> None:
        super().__init__()
        self.function = function
        self.pointwise = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(2))
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3)
        self.norms = nn.ModuleList(nn.BatchNorm2d(CHANNELS) for _ in range(3))

    def bn(self, i: int = 0) -> tuple[Tensor, ...]:
        norm = self.norms[i]
        return norm.weight, norm.bias, norm.running_mean, norm.running_var

    def unit(self, i: int) -> ops.ConvUnit:
        conv = (*self.pointwise, self.conv)[i]
        padding = (conv.kernel_size[0] - 1) // 2
        return ops.ConvUnit(
            conv.weight, *self.bn(i), padding=padding, relu=True, training=self.training
        )

    def forward(self, x: Tensor) -> Any:
        return self.function(x, self)


OPS: dict[str, Callable[[Tensor, OpOf], Any]] = {
    "add_relu": lambda x, m: ops.add_relu(x, x * 0.5),
    "bn_relu": lambda x, m: ops.bn_relu(x, *m.bn(), residual=x, training=m.training),
    "conv_bn_relu": lambda x, m: ops.conv_bn_relu(
        x, m.conv.weight, *m.bn(), padding=1, training=m.training, residual=x
    ),
    "conv_bn_relu_max_pool2d": lambda x, m: ops.conv_bn_relu_max_pool2d(
        x, m.conv.weight, *m.bn(), padding=1, training=m.training
    ),
    "bottleneck_reduce": lambda x, m: ops.bottleneck_reduce(
        x, m.pointwise[0].weight, *m.bn(), stride=2, training=m.training
    ),
    "bottleneck_expand": lambda x, m: ops.bottleneck_expand(
        x, m.pointwise[0].weight, *m.bn(), x, projection=m.unit(1), training=m.training
    ),
    "bottleneck_expand_reduce": lambda x, m: ops.bottleneck_expand_reduce(
        x, m.unit(0), x, m.unit(1)
    ),
    "bottleneck_block": lambda x, m: ops.bottleneck_block(x, m.unit(0), m.unit(2), m.unit(1)),
    "conv_unit": lambda x, m: ops.conv_unit(x, m.unit(2)),
    "residual_branch": lambda x, m: ops.residual_branch(
        x, [m.unit(0), m.unit(2)], ops.Identity(), memory="recompute"
    ),
    "max_pool2d": lambda x, m: ops.max_pool2d(x),
    "global_avg_pool": lambda x, m: ops.global_avg_pool(x),
}

MODULES: dict[str, Callable[[], nn.Module]] = {
    "AddReLU": lambda: _Doubled(fused.AddReLU()),
    "BNReLU": lambda: fused.BNReLU(CHANNELS),
    "ConvBNReLU": lambda: fused.ConvBNReLU(CHANNELS, CHANNELS, 3, stride=2),
    "FusedStage": lambda: fused.FusedStage(
        nn.Conv2d(CHANNELS, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    ),
    "BasicBlock": lambda: fused.BasicBlock(CHANNELS, CHANNELS),
    "BasicBlock option A": lambda: fused.BasicBlock(CHANNELS, 16, 2, shortcut="A"),
    "Bottleneck": lambda: fused.Bottleneck(CHANNELS, 2),
    "Bottleneck projection": lambda: fused.Bottleneck(CHANNELS, 4, 2),
    "PreActBasicBlock": lambda: fused.PreActBasicBlock(CHANNELS, 16, 2),
    "PreActBottleneck": lambda: fused.PreActBottleneck(CHANNELS, 2),
    "WideBasicBlock": lambda: fused.WideBasicBlock(CHANNELS, CHANNELS),
}

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cifar_resnet": lambda: models.cifar_resnet(8, planes=(8, 8, 16)),
    "wide_resnet": lambda: models.wide_resnet(10, 1, planes=(8, 8, 16), stem_planes=8),
    "bottlenecks": lambda: models.ResNet(
        fused.Bottleneck, [1, 1], num_classes=5, planes=(4, 8), stem="imagenet"
    ),
}

CASES: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(OpOf, function) for name, function in OPS.items()},
    **MODULES,
    **NETWORKS,
}


class _Doubled(nn.Module):
    """A module of two inputs, given one twice."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.module(x, x * 0.5)
        return out


def make(name: str, training: bool) -> nn.Module:
    """As after some training."""
    return randomise(CASES[name]()).train(training)


def images(
    name: str,
    batch: int = 2,
    size: int = 8,
    dtype: torch.dtype = torch.float32,
    memory_format: torch.memory_format = torch.channels_last,
) -> Tensor:
    """An input for the module of that name."""
    channels = 3 if name in NETWORKS else CHANNELS
    return torch.randn(batch, channels, size, size, dtype=dtype).to(memory_format=memory_format)
