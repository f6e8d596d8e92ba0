"""Finite differences in float64 against the gradients of whole blocks, for x and all parameters, first and second."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from resnet_cuda import unfuse
from resnet_cuda.nn import BasicBlock, Bottleneck
from resnet_cuda.testing import gradcheck_op

# Blocks have 8 channels where batch norm is to be had in closed form, else as few as show every index.
BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "basic identity": lambda: BasicBlock(4, 4),
    "basic A": lambda: BasicBlock(4, 6, 2, shortcut="A"),
    "basic B": lambda: BasicBlock(8, 16, 2),
    "basic C": lambda: BasicBlock(4, 4, shortcut="C"),
    "bottleneck identity": lambda: Bottleneck(8, 2, base_width=256),
    "bottleneck A": lambda: Bottleneck(4, 2, 2, shortcut="A"),
    "bottleneck B": lambda: Bottleneck(8, 4, 2, base_width=128),
    "bottleneck C": lambda: Bottleneck(8, 2, shortcut="C"),
    "bottleneck v1": lambda: Bottleneck(4, 2, 2, stride_in_1x1=True),
    "ResNeXt": lambda: Bottleneck(8, 4, groups=2, base_width=32),
    "ResNeXt strided": lambda: Bottleneck(6, 4, 2, groups=4, base_width=32),
    "wide": lambda: Bottleneck(8, 2, base_width=128),
}
GAMMAS: dict[str, tuple[float, ...]] = {
    "zero": (0.0,),
    "negative": (-0.8, -1.2),
    "mixed": (1.1, 0.0, -0.7),
}
_MARGIN = 1e-3  # finite differences take steps of 1e-6


@dataclass(frozen=True)
class Case:
    """A block with an input for which no ReLU is near its kink."""

    block: nn.Module
    x: Tensor

    def check(self) -> None:
        """Of x and of all parameters that train."""
        trained = {n: p for n, p in self.block.named_parameters() if p.requires_grad}

        def run(x: Tensor, *parameters: Tensor) -> Tensor:
            return functional_call(self.block, dict(zip(trained, parameters, strict=True)), (x,))

        assert self.block.blocker() is None, f"the fused path is off: {self.block.blocker()}"
        leaves = [p.detach().clone().requires_grad_() for p in trained.values()]
        gradcheck_op(run, [self.x, *leaves], fast=True)


def case(
    name: str,
    device: str,
    gammas: str = "mixed",
    change: Callable[[nn.Module], object] = nn.Module.train,
) -> Case:
    """`change` sets modes before the input is chosen, because what reaches a ReLU depends on them."""
    for seed in range(40):
        torch.manual_seed(seed)
        block = BLOCKS[name]().double()
        for bn in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
            pattern = torch.tensor(GAMMAS[gammas], dtype=torch.float64)
            bn.weight.data.copy_(pattern.repeat(bn.num_features)[: bn.num_features])
            nn.init.normal_(bn.bias)
            nn.init.normal_(bn.running_mean, std=0.2)
            nn.init.uniform_(bn.running_var, 0.5, 1.5)
        change(block)
        x = torch.randn(2, block.conv1.in_channels, 7, 5, dtype=torch.float64)
        if distance_to_kink(block, x) > _MARGIN:
            return Case(block.to(device), x.to(device).requires_grad_())
    raise AssertionError(f"{name}: every input is near a kink; try more seeds or fewer pixels")


def distance_to_kink(block: nn.Module, x: Tensor) -> float:
    """The smallest magnitude that reaches a ReLU of the plain block."""
    plain = unfuse(block)
    found: list[float] = []
    plain.relu = nn.ReLU()
    plain.relu.register_forward_pre_hook(lambda _, given: found.append(given[0].abs().min().item()))
    with torch.no_grad():
        plain(x)
    return min(found)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", BLOCKS)
def test_every_block(backend: str, device: str, name: str, training: bool) -> None:
    case(name, device, change=lambda block: block.train(training)).check()


@pytest.mark.parametrize("gammas", ["zero", "negative"])
@pytest.mark.parametrize("name", ["basic B", "bottleneck identity", "ResNeXt"])
def test_gammas_of_one_sign(backend: str, device: str, name: str, gammas: str) -> None:
    case(name, device, gammas).check()


@pytest.mark.parametrize("name", ["basic A", "bottleneck B", "ResNeXt strided"])
def test_a_block_that_is_recomputed(backend: str, device: str, name: str) -> None:
    found = case(name, device)
    found.block.memory = "recompute"
    found.check()


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize(
    "name", ["basic B", "bottleneck identity", "bottleneck B", "bottleneck C", "ResNeXt"]
)
@pytest.mark.parametrize("closed_form", [True, False], ids=["closed form", "two passes"])
def test_batch_norm_in_both_ways(
    backend: str, device: str, name: str, closed_form: bool, memory: str
) -> None:
    found = case(name, device)
    found.block.closed_form, found.block.memory = closed_form, memory
    found.check()


def frozen_statistics(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def frozen_parameters(block: nn.Module) -> None:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)


def frozen_entirely(block: nn.Module) -> None:
    frozen_statistics(block)
    frozen_parameters(block)


def frozen_middle(block: nn.Module) -> None:
    """A batch norm with running statistics between two with the batch's; its convolution does not train."""
    block.bn2.eval()
    block.conv2.weight.requires_grad_(False)


@pytest.mark.parametrize("closed_form", [True, False], ids=["closed form", "two passes"])
@pytest.mark.parametrize(
    "freeze", [frozen_statistics, frozen_parameters, frozen_entirely, frozen_middle]
)
@pytest.mark.parametrize("name", ["basic B", "bottleneck identity", "bottleneck B"])
def test_frozen_batch_norm(
    backend: str,
    device: str,
    name: str,
    freeze: Callable[[nn.Module], None],
    closed_form: bool,
) -> None:
    found = case(name, device, change=freeze)
    found.block.closed_form = closed_form
    found.check()


def test_a_wrong_gradient_is_found(backend: str, device: str) -> None:
    """That the check can fail: a block whose gradient is a hundredth too large."""
    found = case("bottleneck identity", device)
    wrong = copy.deepcopy(found.block)
    wrong.register_full_backward_hook(lambda _, grads, __: (1.01 * grads[0],))
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        Case(wrong, found.x).check()
