"""A residual branch as its executors and autograd see it: a description, tensors, gradients.

    x -- conv, bn, relu -- ... -- conv, bn -- + -- relu -- z
    source ------------------ shortcut -------'

`source` is x itself in a block (None stands for it), and any other tensor where an op adds one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import _raw
from resnet_cuda.ops import _second_order, _validate
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, ConvGeometry
from resnet_cuda.ops._running import defer_running_update, update_running

if TYPE_CHECKING:
    from resnet_cuda.ops._interface import Backend


@dataclass
class Identity:
    """The shortcut is the block's input itself."""


@dataclass
class ZeroPad:
    """Option A (He et al. 2015, sec. 3.3): every `stride`-th pixel of the input, zero channels
    added at the end."""

    stride: int
    out_channels: int

    def shape(self, x: Sequence[int]) -> tuple[int, int, int, int]:
        """[N, C, H, W] -> [N, out_channels, (H - 1) // stride + 1, (W - 1) // stride + 1]."""
        _validate.pair(self.stride, "stride", 1)
        n, c, h, w = x
        if self.out_channels < c:
            raise ValueError(
                f"out_channels is {self.out_channels}; accepted: at least x's {c} channels"
            )
        return n, self.out_channels, (h - 1) // self.stride + 1, (w - 1) // self.stride + 1

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> a tensor of that shape."""
        extra = self.shape(x.shape)[1] - x.shape[1]
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, extra))


def spread(g: Tensor, like: Tensor, stride: int) -> Tensor:
    """The first channels of g [N, C' >= C, P, Q] at every `stride`-th pixel of zeros like [N, C, H, W];
    differentiable."""
    out = torch.zeros_like(like)
    out[:, :, ::stride, ::stride] = g[:, : like.shape[1]]
    return out


class ConvSpec(NamedTuple):
    """Everything of a convolution with batch norm that is not a tensor."""

    geometry: ConvGeometry
    norm: BatchNormSpec
    relu: bool


class ConvTensors(NamedTuple):
    """weight [K, C / groups, R, S] and batch norm's vectors [K]."""

    weight: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None

    @property
    def bn(self) -> BatchNormTensors:
        return BatchNormTensors(*self[1:])


# What is kept for the backward: raw convolution outputs and bits; or the inputs alone, from which the
# forward runs again.
MEMORY_POLICIES = ("save", "recompute")


def check_memory(memory: str) -> None:
    """Raises ValueError for an unknown policy."""
    if memory not in MEMORY_POLICIES:
        accepted = " or ".join(map(repr, MEMORY_POLICIES))
        raise ValueError(f"memory is {memory!r}; accepted: {accepted}")


class BranchOptions(NamedTuple):
    """How a branch is trained, where there is a choice."""

    memory: str = "save"  # one of MEMORY_POLICIES
    closed_form: bool | None = None  # of batch norms that allow it; None: where it pays

    @property
    def recompute(self) -> bool:
        return self.memory == "recompute"


class BranchSpec(NamedTuple):
    """relu?(units + shortcut). The last unit's ReLU flag counts for nothing: the branch has its own."""

    units: tuple[ConvSpec, ...]
    shortcut: ConvSpec | Identity | ZeroPad | None
    relu: bool
    options: BranchOptions = BranchOptions()

    @property
    def convolutions(self) -> tuple[ConvSpec, ...]:
        """The units, and the projection behind them."""
        projection = (self.shortcut,) if isinstance(self.shortcut, ConvSpec) else ()
        return (*self.units, *projection)


class ConvNeeds(NamedTuple):
    weight: bool
    gamma: bool
    beta: bool


class BranchNeeds(NamedTuple):
    """Which gradients a backward pass is asked for; `source` as a tensor of its own."""

    x: bool
    source: bool
    convolutions: tuple[ConvNeeds, ...]


class ConvGradients(NamedTuple):
    weight: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None


class BranchGradients(NamedTuple):
    """In the order of `BranchNeeds`; None where nothing was asked."""

    x: Tensor | None
    source: Tensor | None
    convolutions: Sequence[ConvGradients]


def run_branch(
    backend: Backend,
    branch: BranchSpec,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
) -> Tensor:
    """z. Everything is checked and in one dtype; running statistics are updated in training.

    source: the shortcut's input where that is not x, else None.
    """
    if not (torch.is_grad_enabled() and requires_grad(x, source, *(v for t in tensors for v in t))):
        return backend.branch_forward(branch, x, source, tensors)[0]
    specs = branch.convolutions
    calls = [defer_running_update(t.bn, spec.norm) for spec, t in zip(specs, tensors, strict=True)]
    flat = [v for t, (bn, _) in zip(tensors, calls, strict=True) for v in (t.weight, *bn)]
    z, *saved = apply_function(_ResidualBranch, x, source, branch, backend, *flat)
    if any(deferred for _, deferred in calls):
        statistics = _statistics(backend, branch, tensors, saved)
        counts = _values_per_channel(branch, x, x if source is None else source, tensors)
        for i, (_, deferred) in enumerate(calls):
            if deferred:
                update_running(tensors[i].bn, specs[i].norm, statistics[i], counts[i])
    return z


def _statistics(
    backend: Backend, branch: BranchSpec, tensors: Sequence[ConvTensors], saved: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """(mean, invstd) of every batch norm, from the outputs of the autograd function."""
    if branch.options.recompute:
        return list(zip(saved[::2], saved[1::2], strict=True))
    return backend.branch_statistics(branch, tensors, saved)


def requires_grad(*tensors: Tensor | None) -> bool:
    return any(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors)


def _values_per_channel(
    branch: BranchSpec, x: Tensor, source: Tensor, tensors: Sequence[ConvTensors]
) -> list[int]:
    """N P Q of every convolution's output."""
    counts = []
    shape: Sequence[int] = x.shape
    for i, (spec, t) in enumerate(zip(branch.convolutions, tensors, strict=True)):
        g = spec.geometry
        read = shape if i < len(branch.units) else source.shape
        shape = _raw.conv_output_shape(read, t.weight.shape, g.stride, g.padding, g.dilation)
        counts.append(shape[0] * shape[2] * shape[3])
    return counts


class _ResidualBranch(torch.autograd.Function):
    """Outputs (z, *saved): what the backward needs travels as outputs, so that torch.func's
    transforms can follow. Where it runs the forward again, `saved` are the statistics alone."""

    @staticmethod
    def forward(
        x: Tensor,
        source: Tensor | None,
        branch: BranchSpec,
        backend: Backend,
        *flat: Tensor | None,
    ) -> tuple[Tensor, ...]:
        tensors = _grouped(flat)
        z, saved = backend.branch_forward(branch, x, source, tensors)
        if branch.options.recompute:
            statistics = backend.branch_statistics(branch, tensors, saved)
            return (z, *(vector for pair in statistics for vector in pair))
        return (z, *saved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, source, branch, backend, *flat = inputs
        z, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        keeps_z = branch.relu and backend.gate_is_output and not branch.options.recompute
        parameters: list[Tensor | None] = []
        for spec, t in zip(branch.convolutions, _grouped(flat), strict=True):
            runs_again = branch.options.recompute and not spec.norm.training
            parameters += [*t[:3], *(t[3:] if runs_again else (None, None))]
        ctx.save_for_backward(x, source, z if keeps_z else None, *parameters, *saved)
        ctx.branch, ctx.backend = branch, backend

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
        branch, backend = ctx.branch, ctx.backend
        count = len(branch.convolutions)
        if dz is None:
            return (None,) * (4 + 5 * count)
        x, source, z, *rest = ctx.saved_tensors
        tensors, saved = _grouped(rest[: 5 * count]), rest[5 * count :]
        needed = ctx.needs_input_grad
        needs = BranchNeeds(
            needed[0],
            needed[1],
            tuple(ConvNeeds(*needed[i : i + 3]) for i in range(4, 4 + 5 * count, 5)),
        )
        if torch.is_grad_enabled():
            statistics = _statistics(backend, branch, tensors, saved)
            gradients = _second_order.branch_backward(
                branch, dz, x, source, tensors, statistics, needs
            )
        else:
            if branch.options.recompute:
                z, saved = backend.branch_forward(branch, x, source, tensors)
            gradients = backend.branch_backward(branch, dz, z, x, source, tensors, saved, needs)
        flat: list[Tensor | None] = []
        for t, g in zip(tensors, gradients.convolutions, strict=True):
            flat += [
                g.weight,
                in_dtype_of(t.gamma, g.gamma),
                in_dtype_of(t.beta, g.beta),
                None,
                None,
            ]
        return (gradients.x, gradients.source, None, None, *flat)


def _grouped(flat: Sequence[Tensor | None]) -> list[ConvTensors]:
    return [ConvTensors(*flat[i : i + 5]) for i in range(0, len(flat), 5)]  # type: ignore[arg-type]


def in_dtype_of(parameter: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """A vector's gradient in its parameter's dtype."""
    if gradient is None or parameter is None:
        return None
    return gradient.to(parameter.dtype)
