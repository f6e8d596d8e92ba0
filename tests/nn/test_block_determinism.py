"""Whole blocks give the same bits whatever the order in which the emulator's threads run, and in every run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import _raw
from resnet_cuda.nn import (
    BasicBlock,
    Bottleneck,
    PreActBasicBlock,
    PreActBottleneck,
    WideBasicBlock,
)
from resnet_cuda.testing import emulated
from tests.networks import randomise

SCHEDULES = [("round_robin", 1), ("reversed", 1)] + [("random", seed) for seed in range(1, 19)]
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "basic": lambda: BasicBlock(16, 16),
    "basic A": lambda: BasicBlock(16, 24, 2, shortcut="A"),
    "basic B": lambda: BasicBlock(16, 24, 2),
    "bottleneck": lambda: Bottleneck(32, 8),
    "bottleneck B": lambda: Bottleneck(24, 8, 2),
    "bottleneck C": lambda: Bottleneck(32, 8, shortcut="C"),
    "ResNeXt": lambda: Bottleneck(32, 8, groups=4, base_width=32),
    "wide": lambda: Bottleneck(32, 8, base_width=128),
    "pre-activated basic A": lambda: PreActBasicBlock(16, 24, 2, shortcut="A"),
    "pre-activated bottleneck B": lambda: PreActBottleneck(24, 8, 2),
    "dropout": lambda: WideBasicBlock(16, 16, dropout=0.3),
}


@pytest.fixture(autouse=True)
def _built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")


def step(block: nn.Module, x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The output, all gradients and all statistics of one training step, by name."""
    block = copy.deepcopy(block)
    x = x.detach().requires_grad_()
    torch.manual_seed(3)  # of dropout
    z = block(x)
    yield "output", z
    z.backward(torch.linspace(-1, 1, z.numel()).view_as(z).to(z.dtype))
    assert x.grad is not None
    yield "gradient of the input", x.grad
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        yield f"gradient of {name}", parameter.grad
    yield from block.named_buffers()


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", BLOCKS)
def test_results_are_bitwise_equal_under_20_schedules_and_in_every_run(
    name: str, dtype: torch.dtype, memory: str
) -> None:
    block = randomise(BLOCKS[name]()).to(dtype).to(memory_format=torch.channels_last)
    block.memory = memory
    x = torch.randn(3, block.conv1.in_channels, 9, 7).to(dtype)
    with emulated():
        expected = dict(step(block, x))
    runs = [
        *({"schedule": schedule, "seed": seed} for schedule, seed in SCHEDULES),
        {"workers": 1},
        {"workers": 2},
        {},
    ]
    for options in runs:
        with emulated(**options):
            for key, found in step(block, x):
                assert torch.equal(found, expected[key]), f"{key} differs under {options}"
