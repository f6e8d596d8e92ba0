"""A residual branch as its executors and autograd see it: a description, tensors, gradients.

    x -- conv, bn, relu -- ... -- conv, bn -- + -- relu -- z
    source ------------------ shortcut -------'

    x -- bn, relu -.- conv, bn, relu -- ... -- conv -- + -- z
    |              '----------- projection ------------|
    '------------------- or identity ------------------'

`source` is x itself in a block (None stands for it), and any other tensor where an op adds one. The
second form is a pre-activation block's: a batch norm enters it, and its last convolutions have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import _fakes
from resnet_cuda.ops import _second_order, _validate
from resnet_cuda.ops._function import apply_function
from resnet_cuda.ops._interface import BatchNormSpec, BatchNormTensors, ConvGeometry
from resnet_cuda.ops._layout import match_strides
from resnet_cuda.ops._running import moves_outside, running, take_over, with_copies

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

    def add_to_(self, z: Tensor, x: Tensor) -> Tensor:
        """z, of that shape, with what it takes of x added in place."""
        z[:, : x.shape[1]].add_(x[:, :, :: self.stride, :: self.stride])
        return z

    def add_gradient_to_(self, dx: Tensor, dz: Tensor) -> Tensor:
        """dx [N, C, H, W] with the gradient dz of that shape added in place where it belongs."""
        dx[:, :, :: self.stride, :: self.stride].add_(dz[:, : dx.shape[1]])
        return dx

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> a tensor of that shape."""
        extra = self.shape(x.shape)[1] - x.shape[1]
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, extra))


def spread(g: Tensor, like: Tensor, stride: int) -> Tensor:
    """The first channels of g [N, C' >= C, P, Q] at every `stride`-th pixel of zeros like [N, C, H, W]."""
    out = torch.zeros_like(like)
    out[:, :, ::stride, ::stride] = g[:, : like.shape[1]]
    return out


class ConvSpec(NamedTuple):
    """Everything of a convolution with batch norm that is not a tensor. norm None: it has none."""

    geometry: ConvGeometry
    norm: BatchNormSpec | None
    relu: bool


class ConvTensors(NamedTuple):
    """weight [K, C / groups, R, S] and batch norm's vectors [K].

    noise, of the output's shape: dropout behind the ReLU, as a term before it: 0 keeps an element,
    -inf drops it. (What is kept grows by a factor, which gamma and beta have in them.)
    """

    weight: Tensor
    gamma: Tensor | None
    beta: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    noise: Tensor | None = None

    @property
    def bn(self) -> BatchNormTensors:
        return BatchNormTensors(*self[1:5])


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


def is_pixelwise(spec: ConvSpec, t: ConvTensors) -> bool:
    """Whether it is a product of (sampled) pixels and filters: 1x1 without padding and groups, with
    equal strides."""
    g = spec.geometry
    return (
        tuple(t.weight.shape[2:]) == (1, 1)
        and g.padding == (0, 0)
        and g.groups == 1
        and g.stride[0] == g.stride[1]
    )


class BranchSpec(NamedTuple):
    """relu?(units + shortcut). The last unit's ReLU flag counts for nothing: the branch has its own.

    entry: x is normalised and activated before the first unit, and before a projection (not before
    another shortcut).
    """

    units: tuple[ConvSpec, ...]
    shortcut: ConvSpec | Identity | ZeroPad | None
    relu: bool
    options: BranchOptions = BranchOptions()
    entry: BatchNormSpec | None = None

    @property
    def convolutions(self) -> tuple[ConvSpec, ...]:
        """The units, and the projection behind them."""
        projection = (self.shortcut,) if isinstance(self.shortcut, ConvSpec) else ()
        return (*self.units, *projection)

    @property
    def norms(self) -> tuple[BatchNormSpec | None, ...]:
        """Of the convolutions, and the one that enters the branch."""
        return (*(spec.norm for spec in self.convolutions), self.entry)


class BranchTensors(NamedTuple):
    """x [N, C, H, W]; the shortcut's input where that is not x; those of every convolution in order;
    the vectors [C] of the batch norm that enters the branch."""

    x: Tensor
    source: Tensor | None
    convolutions: Sequence[ConvTensors]
    entry: BatchNormTensors | None = None

    @property
    def start(self) -> Tensor:
        """Where the shortcut starts."""
        return self.x if self.source is None else self.source

    @property
    def norms(self) -> tuple[BatchNormTensors | None, ...]:
        """In the order of the description's."""
        return (*(t.bn for t in self.convolutions), self.entry)


class ConvNeeds(NamedTuple):
    weight: bool
    gamma: bool
    beta: bool


class BranchNeeds(NamedTuple):
    """Which gradients a backward pass is asked for; `source` as a tensor of its own."""

    x: bool
    source: bool
    convolutions: tuple[ConvNeeds, ...]
    entry: ConvNeeds = ConvNeeds(False, False, False)

    def below(self, i: int) -> bool:
        """Whether anything is asked for that lies before unit i."""
        return self.x or any(self.entry) or any(any(n) for n in self.convolutions[:i])


class ConvGradients(NamedTuple):
    weight: Tensor | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None


class BranchGradients(NamedTuple):
    """In the order of `BranchNeeds`; None where nothing was asked."""

    x: Tensor | None
    source: Tensor | None
    convolutions: Sequence[ConvGradients]
    entry: ConvGradients = ConvGradients()


Statistics = tuple[Tensor, Tensor]  # (mean, invstd) [K] that batch norm normalised with


def run_branch(backend: Backend, branch: BranchSpec, tensors: BranchTensors) -> Tensor:
    """z. Everything is checked and in one dtype; running statistics are updated in training."""
    if not (torch.is_grad_enabled() and requires_grad(*_flat(tensors))):
        return backend.branch_forward(branch, tensors)[0]
    z, *rest = apply_function(_ResidualBranch, branch, backend, *_flat(tensors))
    if moves_outside():
        moving = _running(branch, tensors)
        take_over(moving, rest[len(rest) - len(moving) :])
    return z


def _running(branch: BranchSpec, tensors: BranchTensors) -> list[Tensor]:
    return running(zip(tensors.norms, branch.norms, strict=True))


def _statistics(
    backend: Backend, branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
) -> list[Statistics | None]:
    """Of every batch norm in order, from the outputs of the autograd function."""
    if branch.options.recompute:
        pairs = iter(zip(saved[::2], saved[1::2], strict=True))
        return [None if norm is None else next(pairs) for norm in branch.norms]
    return backend.branch_statistics(branch, tensors, saved)


def requires_grad(*tensors: Tensor | None) -> bool:
    for tensor in tensors:  # no any(): a generator takes longer than what it asks
        if isinstance(tensor, Tensor) and tensor.requires_grad:
            return True
    return False


def values_per_channel(branch: BranchSpec, tensors: BranchTensors) -> list[int]:
    """N P Q of what every batch norm reads."""
    counts = []
    shape: Sequence[int] = tensors.x.shape
    for i, (spec, t) in enumerate(zip(branch.convolutions, tensors.convolutions, strict=True)):
        g = spec.geometry
        read = shape if i < len(branch.units) else tensors.start.shape
        shape = _fakes.conv_output_shape(read, t.weight.shape, g.stride, g.padding, g.dilation)
        counts.append(shape[0] * shape[2] * shape[3])
    n, _, h, w = tensors.x.shape
    return [*counts, n * h * w]


_PER_CONVOLUTION = len(ConvTensors._fields)


def _flat(tensors: BranchTensors) -> list[Tensor | None]:
    entry = tensors.entry or BatchNormTensors(None, None, None, None)
    return [tensors.x, tensors.source, *entry, *(v for t in tensors.convolutions for v in t)]


def _unflat(flat: Sequence[Tensor | None], has_entry: bool) -> BranchTensors:
    x, source, *rest = flat
    entry, of_convolutions = rest[:4], rest[4:]
    assert x is not None
    return BranchTensors(
        x,
        source,
        [
            ConvTensors(*of_convolutions[i : i + _PER_CONVOLUTION])  # type: ignore[arg-type]
            for i in range(0, len(of_convolutions), _PER_CONVOLUTION)
        ],
        BatchNormTensors(*entry) if has_entry else None,
    )


class _ResidualBranch(torch.autograd.Function):
    """Outputs (z, *saved): what the backward needs travels as outputs, so that torch.func's
    transforms can follow. Where it runs the forward again, `saved` are the statistics alone. Behind them
    are running statistics, where those move outside."""

    @staticmethod
    def forward(branch: BranchSpec, backend: Backend, *flat: Tensor | None) -> tuple[Tensor, ...]:
        tensors = _unflat(flat, branch.entry is not None)
        moved: list[Tensor] = []
        if moves_outside():
            convolutions = [
                ConvTensors(t.weight, *with_copies(t.bn, spec.norm), t.noise)
                for spec, t in zip(branch.convolutions, tensors.convolutions, strict=True)
            ]
            entry = tensors.entry and with_copies(tensors.entry, branch.entry)
            tensors = tensors._replace(convolutions=convolutions, entry=entry)
            moved = _running(branch, tensors)
        z, saved = backend.branch_forward(branch, tensors)
        if branch.options.recompute:
            statistics = backend.branch_statistics(branch, tensors, saved)
            saved = tuple(vector for pair in statistics if pair is not None for vector in pair)
        return (z, *saved, *moved)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        branch, backend, *flat = inputs
        z, *saved = output
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        if moves_outside():
            moved = len(_running(branch, _unflat(flat, branch.entry is not None)))
            saved = saved[: len(saved) - moved]
        keeps_z = branch.relu and backend.gate_is_output and not branch.options.recompute
        tensors = _unflat(flat, branch.entry is not None)

        def kept(bn: BatchNormTensors, norm: BatchNormSpec | None) -> BatchNormTensors:
            runs_again = branch.options.recompute and norm is not None and not norm.training
            return bn if runs_again else bn._replace(running_mean=None, running_var=None)

        convolutions = [
            ConvTensors(t.weight, *kept(t.bn, spec.norm), t.noise)
            for spec, t in zip(branch.convolutions, tensors.convolutions, strict=True)
        ]
        entry = tensors.entry and kept(tensors.entry, branch.entry)
        tensors = tensors._replace(convolutions=convolutions, entry=entry)
        ctx.save_for_backward(z if keeps_z else None, *_flat(tensors), *saved)
        ctx.branch, ctx.backend, ctx.inputs = branch, backend, len(flat)

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, *_: Any) -> tuple[Any, ...]:
        branch, backend = ctx.branch, ctx.backend
        if dz is None:
            return (None,) * (2 + ctx.inputs)
        z, *rest = ctx.saved_tensors
        tensors = _unflat(rest[: ctx.inputs], branch.entry is not None)
        saved = rest[ctx.inputs :]
        needed = ctx.needs_input_grad[2:]
        needs = BranchNeeds(
            needed[0],
            needed[1],
            tuple(ConvNeeds(*needed[i : i + 3]) for i in range(6, ctx.inputs, _PER_CONVOLUTION)),
            ConvNeeds(False, *needed[2:4]),
        )
        if _second_order.is_wanted(dz):
            statistics = _statistics(backend, branch, tensors, saved)
            gradients = _second_order.branch_backward(branch, dz, tensors, statistics, needs)
        else:
            if branch.options.recompute:
                z, saved = backend.branch_forward(branch, tensors)
            gradients = backend.branch_backward(branch, dz, z, tensors, saved, needs)
            gradients = gradients._replace(
                convolutions=[
                    g if g.weight is None else g._replace(weight=match_strides(g.weight, t.weight))
                    for g, t in zip(gradients.convolutions, tensors.convolutions, strict=True)
                ]
            )
        entry = tensors.entry or BatchNormTensors(None, None, None, None)
        flat: list[Tensor | None] = [*_vectors(entry, gradients.entry), None, None]
        for t, g in zip(tensors.convolutions, gradients.convolutions, strict=True):
            flat += [g.weight, *_vectors(t.bn, g), None, None, None]
        return (None, None, gradients.x, gradients.source, *flat)


def _vectors(bn: BatchNormTensors, g: ConvGradients) -> tuple[Tensor | None, Tensor | None]:
    return in_dtype_of(bn.gamma, g.gamma), in_dtype_of(bn.beta, g.beta)


def in_dtype_of(parameter: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    """A vector's gradient in its parameter's dtype."""
    if gradient is None or parameter is None:
        return None
    return gradient.to(parameter.dtype)
