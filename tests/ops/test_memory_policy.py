"""What a residual branch keeps for its backward: `memory="save"` and `memory="recompute"`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.block_memory import held
from resnet_cuda import fuse, ops, reference
from resnet_cuda.nn import BasicBlock, Bottleneck
from resnet_cuda.testing import gradcheck_op

BLOCKS = {
    "bottleneck": lambda **o: Bottleneck(32, 8, **o),
    "bottleneck with a projection": lambda **o: Bottleneck(16, 8, stride=2, **o),
    "basic": lambda **o: BasicBlock(16, 16, **o),
    "basic with option A": lambda **o: BasicBlock(16, 24, stride=2, shortcut="A", **o),
}


def images(block: nn.Module) -> Tensor:
    x = torch.randn(2, block.conv1.in_channels, 8, 6)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def step(block: nn.Module, x: Tensor, memory: str) -> list[Tensor]:
    """The output, all gradients and all statistics of one training step from fixed statistics."""
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    block.memory = memory
    z = block(x)
    weights = torch.arange(z.numel()).view_as(z) % 7 - 3.0
    gradients = torch.autograd.grad(z, [x, *block.parameters()], weights.to(z.dtype))
    return [z, *gradients, *block.buffers()]


@pytest.mark.parametrize("frozen", [False, True], ids=["train", "frozen"])
@pytest.mark.parametrize("name", BLOCKS)
def test_recomputing_gives_the_same_bits(
    backend: str, device: str, name: str, frozen: bool
) -> None:
    block = BLOCKS[name]().to(device)
    if frozen:
        block.bn1.eval()
        block.bn2.eval()
    x = images(block).detach().to(device).requires_grad_()
    for a, b in zip(step(block, x, "save"), step(block, x, "recompute"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", BLOCKS)
def test_recomputing_keeps_the_input_and_statistics_alone(
    backend: str, device: str, name: str
) -> None:
    block = BLOCKS[name](memory="recompute").to(device)
    x = images(block).detach().to(device).requires_grad_()
    norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = sum(2 * norm.num_features for norm in norms)
    assert held(block, x).all == (x.numel() + statistics) * x.element_size()


def test_a_statistic_that_changed_before_the_forward_runs_again_is_torch_s_error(
    backend: str, device: str
) -> None:
    block = BLOCKS["basic"](memory="recompute").to(device)
    block.bn1.eval()
    z = block(images(block).detach().to(device).requires_grad_())
    block.bn1.running_mean.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_derivatives_of_a_recomputed_branch(backend: str, device: str) -> None:
    block = BLOCKS["basic"](memory="recompute").to(device).double()
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64, device=device, requires_grad=True)
    gradcheck_op(block, (x,), fast=True)


def test_fuse_sets_the_policy_and_leaves_it() -> None:
    model = nn.Sequential(reference.BasicBlock(8, 8), reference.Bottleneck(8, 2))
    fused = fuse(model, memory="recompute")
    assert [block.memory for block in fused] == ["recompute", "recompute"]
    assert [block.memory for block in fuse(fused)] == ["recompute", "recompute"]
    assert [block.memory for block in fuse(model)] == ["save", "save"]


def test_an_unknown_policy_is_named() -> None:
    x = torch.randn(1, 8, 4, 4)
    with pytest.raises(ValueError, match="memory is 'all'; accepted: 'save' or 'recompute'"):
        BasicBlock(8, 8, memory="all")
    with pytest.raises(ValueError, match="memory is 'all'"):
        ops.residual_branch(x, [ops.ConvUnit(x, None, None, None, None)], None, memory="all")
