"""What a user may write: `mypy --strict` reads it, nothing runs it, and what the package gives back is never Any."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import resnet_cuda
from resnet_cuda import convert, models, ops, reference, testing
from resnet_cuda import nn as fused
from resnet_cuda.fuse import FuseReport


class Classifier(nn.Module):
    """Modules are attributes with types, a fused copy of a class keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = fused.ConvBNReLU(3, 16, 3)
        self.block = fused.BasicBlock(16, 16)
        self.neck = fused.Bottleneck(16, 4)
        self.before = fused.PreActBasicBlock(16, 16)
        self.end = fused.BNReLU(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem.forward(x)
        x = self.before.forward(self.neck.forward(self.block.forward(x)))
        x = ops.global_avg_pool(self.end.forward(x))
        return self.head.forward(x.flatten(1))


def functions(x: Tensor, weight: Tensor, vector: Tensor) -> None:
    assert_type(ops.add_relu(x, x), Tensor)
    bn = vector, vector, vector, vector
    assert_type(ops.bn_relu(x, *bn, training=True), Tensor)
    assert_type(ops.conv_bn_relu(x, weight, *bn, residual=x, stride=(2, 2), padding=1), Tensor)
    assert_type(ops.conv_bn_relu_max_pool2d(x, weight, *bn), Tensor)
    assert_type(ops.max_pool2d(x), Tensor)
    assert_type(ops.bottleneck_reduce(x, weight, *bn), Tensor)
    assert_type(ops.bottleneck_expand(x, weight, *bn, x), Tensor)
    unit = ops.ConvUnit(weight, *bn)
    assert_type(ops.conv_unit(x, unit), Tensor)
    assert_type(ops.bottleneck_expand_reduce(x, unit, x, unit), tuple[Tensor, Tensor])
    assert_type(ops.residual_branch(x, [unit], ops.Identity(), memory="recompute"), Tensor)
    assert_type(reference.conv_bn_relu(x, weight, *bn), Tensor)


def networks(x: Tensor, state: dict[str, Tensor]) -> None:
    network = models.resnet50(num_classes=10)
    assert_type(network, models.ResNet)
    assert_type(network.forward(x), Tensor)
    assert_type(models.cifar_resnet20(), models.ResNet)
    assert_type(models.wrn_28_10(), models.PreActResNet)
    assert_type(models.create_model("resnet18"), nn.Module)
    assert_type(models.list_models(), list[str])
    assert_type(resnet_cuda.fuse(Classifier(), memory="recompute"), Classifier)
    assert_type(resnet_cuda.unfuse(network), nn.Module)
    report = resnet_cuda.fuse_report(network)
    assert_type(report, FuseReport)
    assert_type([entry.path for entry in report.fused], list[str])
    assert_type(convert.from_apex(state), dict[str, Tensor])
    print(resnet_cuda.explain(network, x, training=True))


def backends(x: Tensor) -> None:
    assert_type(resnet_cuda.backend(), str)
    assert_type(resnet_cuda.__version__, str)
    with resnet_cuda.use_backend("cpu"):
        ops.add_relu(x, x)
    with testing.emulated(checked=True, count=True) as emulation:
        ops.add_relu(x, x)
        assert_type(emulation.checked, bool)


if __name__ == "__main__":
    functions(torch.zeros(1), torch.zeros(1), torch.zeros(1))
