"""The basic test of an installed wheel: a fused network is the plain one, with nothing there but torch and numpy."""

from __future__ import annotations

import copy
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

import resnet_cuda
from resnet_cuda import models, ops, reference, testing

TOLERANCE = 1e-9


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        reference.ConvBNReLU(3, 8, 3, padding=1),
        reference.BasicBlock(8, 8),
        reference.Bottleneck(8, 4, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5),
    ).to(torch.float64, memory_format=torch.channels_last)


def results(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs, gradients and running statistics of a training step, and the outputs of inference behind it."""
    found = {"training output": model.train()(x)}
    found["training output"].square().sum().backward()
    found |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    with torch.no_grad():
        found["inference output"] = model.eval()(x)
    return found | dict(model.named_buffers())


def largest_difference(model: nn.Module, fused: nn.Module, x: Tensor) -> float:
    expected, found = results(model, x), results(fused, x)
    assert expected.keys() == found.keys(), "the fused network has other names"
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


def compiled_agrees(x: Tensor) -> bool:
    """Whether torch.compile makes one graph of an op, whose result is that of the call."""
    weight = torch.randn(8, x.shape[1], 3, 3, dtype=x.dtype)

    def call(x: Tensor) -> Tensor:
        return ops.conv_bn_relu(x, weight, None, None, None, None, training=True)

    compiled = torch.compile(call, fullgraph=True, backend="eager")
    return bool(torch.allclose(compiled(x), call(x), atol=TOLERANCE))


def main() -> int:
    installed = Path(resnet_cuda.__file__)
    if not installed.is_relative_to(sys.prefix):
        raise SystemExit(f"resnet_cuda comes from {installed}, expected one within {sys.prefix}")
    plain = network()
    x = torch.randn(2, 3, 12, 12, dtype=torch.float64).to(memory_format=torch.channels_last)
    backends: dict[str, AbstractContextManager[object]] = {
        "cpu": resnet_cuda.use_backend("cpu"),
        "emulated": testing.emulated(),
        "emulated, checked": testing.emulated(checked=True),
    }
    failed = 0
    for name, backend in backends.items():
        fused = resnet_cuda.fuse(plain)
        assert resnet_cuda.fuse_report(fused).fused, "nothing is fused"
        with backend:
            difference = largest_difference(copy.deepcopy(plain), fused, x)
            agrees = compiled_agrees(x)
        right = difference < TOLERANCE and agrees
        failed += not right
        print(f"{'PASS' if right else 'FAIL'}  {name}: {difference:.1e}, compiled {agrees}")
    assert models.resnet18().fc.out_features == 1000
    print(f"torch {torch.__version__}, {len(backends) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
