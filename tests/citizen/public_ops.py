"""Every public op once in training, tiny, with batch statistics and gradients of all that has one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda import ops, reference
from resnet_cuda.cli._check_cases import Case, gradient_cases
from resnet_cuda.testing.problems import ConvProblem, make_inputs

_STEM = ConvProblem(2, 3, 6, 6, 4, 3, 3, 1, 1)
_CLOSED = ConvProblem(2, 16, 4, 4, 8, 1, 1), ConvProblem(2, 8, 4, 4, 16, 1, 1)


def _in_training(name: str, op: Callable[..., Tensor], problem: ConvProblem) -> Case:
    given = make_inputs(problem, torch.float64, requires_grad=True)
    vectors = [given.gamma, given.beta, given.running_mean, given.running_var]
    return Case(f"{name}, training", op, op, [given.x, given.weight, *vectors])


def _unit(x: Tensor, *a: Any) -> Tensor:
    return ops.conv_unit(x, ops.ConvUnit(*a, padding=(1, 1), training=True))


def _chain(x: Tensor, *a: Any) -> Tensor:
    """Of the op's two results the one that is made of the other."""
    units = [ops.ConvUnit(*of, training=True) for of in (a[:5], a[6:])]
    return ops.bottleneck_expand_reduce(x, units[0], a[5], units[1])[1]


def _closed_form(library: Any, x: Tensor, *a: Any) -> Tensor:
    """A branch whose last convolution's output our kernels never store."""
    units = [ops.ConvUnit(*a[i : i + 5], training=True) for i in (0, 5)]
    return library.residual_branch(x, units, ops.Identity())


def _closed_form_case() -> Case:
    first, last = (make_inputs(p, torch.bfloat16, requires_grad=True) for p in _CLOSED)
    inputs = [first.x]
    for given in (first, last):
        inputs += [given.weight, given.gamma, given.beta, given.running_mean, given.running_var]
    called = partial(_closed_form, ops), partial(_closed_form, reference)
    return Case("residual_branch, closed form, training", *called, inputs)


def _adapted(case: Case) -> Case:
    """A fault behind an op, where the case puts two results together, is none of the op's."""
    return case._replace(fused=_chain) if "expand_reduce" in case.name else case


CASES = [
    # A block in one launch is for frozen batch norms alone.
    *(_adapted(c) for c in gradient_cases("cpu") if "frozen" not in c.name or "block" in c.name),
    _in_training(
        "conv_bn_relu_max_pool2d",
        partial(ops.conv_bn_relu_max_pool2d, padding=1, training=True),
        _STEM,
    ),
    _in_training("conv_unit", _unit, _STEM),
    _closed_form_case(),
]


class Outcome(NamedTuple):
    output: Tensor
    gradients: tuple[Tensor, ...]


class Call:
    """A case with inputs of its own: parameters, which want gradients, and running statistics, which move."""

    def __init__(self, case: Case) -> None:
        self.op = case.fused
        self.inputs = [t.detach().clone().requires_grad_(t.requires_grad) for t in case.inputs]
        self._first = [t.detach().clone() for t in case.inputs]

    @property
    def parameters(self) -> list[Tensor]:
        return [t for t in self.inputs if t.requires_grad]

    @property
    def statistics(self) -> list[Tensor]:
        return [t for t in self.inputs if not t.requires_grad]

    def forward(self) -> Tensor:
        return self.op(*self.inputs)

    def backward(self, output: Tensor) -> Outcome:
        return Outcome(output, torch.autograd.grad(output, self.parameters, self.gradient(output)))

    def gradient(self, output: Tensor) -> Tensor:
        values = torch.arange(output.numel()).view(output.shape) % 7 - 3
        return values.to(output.dtype).contiguous(memory_format=torch.channels_last)

    def reset(self) -> None:
        with torch.no_grad():
            for tensor, first in zip(self.statistics, self._statistics_at_first(), strict=True):
                tensor.copy_(first)

    def changed(self) -> list[int]:
        """Which inputs are not, to the bit, what they were at first."""
        pairs = zip(self.inputs, self._first, strict=True)
        return [i for i, (now, first) in enumerate(pairs) if not torch.equal(now.detach(), first)]

    def _statistics_at_first(self) -> list[Tensor]:
        pairs = zip(self.inputs, self._first, strict=True)
        return [first for now, first in pairs if not now.requires_grad]
