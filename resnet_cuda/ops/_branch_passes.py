"""The executor of residual branches on our kernels: forward and backward as short lists of passes.

Nothing that is normalised or activated is stored inside a branch. A convolution stores its raw
output y and sums from which batch norm's statistics follow; whoever reads y normalises and activates
it on its way in. Back again, every dgrad adds, gates and sums in its epilogue what the batch norm
before it needs. `_kernel_passes` says what each pass reads and writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops import _closed_form as closed_form
from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    ConvGradients,
    ConvNeeds,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
    spread,
)
from resnet_cuda.ops._closed_form import Expanded
from resnet_cuda.ops._interface import ConvGeometry
from resnet_cuda.ops._kernel_passes import (
    OPEN,
    PIECE,
    AddedGradient,
    Behind,
    Convolved,
    Input,
    Operand,
    convolve,
    convolve_backward,
    gated,
    normalised,
    wants_sums,
)
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate
from resnet_cuda.ops._serving import serve

_ops = torch.ops.resnet_cuda


Kept = Convolved | Expanded  # of every convolution, for the backward


class Stored(NamedTuple):
    """A term of the branch's sum that is in memory: tensor scale + bias."""

    tensor: Tensor | None
    scale: Tensor | None = None
    bias: Tensor | None = None


class Pending(NamedTuple):
    """A term that has yet to be computed: (read W') scale + bias."""

    read: Operand
    stride: int
    weight: Tensor
    scale: Tensor
    bias: Tensor


def forward(
    branch: BranchSpec, x: Tensor, source: Tensor | None, tensors: Sequence[ConvTensors]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `backward` wants to have: what is `Kept` of every convolution, and the bits of
    z's ReLU unless the last y tells."""
    kept: list[Kept] = []
    terms: list[Stored | Pending] = []
    start = x if source is None else source
    last = len(branch.units) - 1

    def convolved(read: Operand, spec: ConvSpec, t: ConvTensors) -> Stored:
        c = convolve(read, spec, t)
        kept.append(c)
        return Stored(c.y, c.scale, c.bias)

    def expanded(read: Operand, shift: Tensor, spec: ConvSpec, t: ConvTensors) -> Pending:
        e, norm = closed_form.forward(read, shift, spec, t)
        kept.append(e)
        return Pending(read, spec.geometry.stride[0], t.weight, *norm)

    # The units, each reading the y before it.
    read = Operand(x)
    for spec, t in zip(branch.units[:last], tensors, strict=False):
        serve(t.weight)
        convolved(read, spec, t)
        read = normalised(_convolved(kept[-1]), spec.relu)
    # The last unit, which waits where its batch norm follows from what it reads.
    spec, t = branch.units[last], tensors[last]
    serve(t.weight)
    if closed_form_obstacle(branch, tensors, last) is None:
        before = _convolved(kept[-1])
        shift = closed_form.shift_of_activation(tensors[last - 1].beta, before.bias, x.dtype)
        terms.append(expanded(closed_form.shifted_activation(before, shift), shift, spec, t))
    else:
        terms.append(convolved(read, spec, t))
    # The shortcut.
    if isinstance(branch.shortcut, ConvSpec):
        spec, t = branch.shortcut, tensors[-1]
        serve(t.weight)
        if closed_form_obstacle(branch, tensors, last + 1) is None:
            shift = closed_form.shift_of_input(
                start, spec.geometry.stride[0], spec.norm.process_group
            )
            terms.append(expanded(closed_form.shifted_input(start, shift), shift, spec, t))
        else:
            terms.append(convolved(Operand(start), spec, t))
    elif isinstance(branch.shortcut, ZeroPad):
        terms.append(Stored(as_channels_last(branch.shortcut(start))))
    elif isinstance(branch.shortcut, Identity):
        terms.append(Stored(start))
    # Their sum, in the last unit's name.
    serve(tensors[last].weight)
    keeps_bits = branch.relu and not _gates_by_y(branch, kept)
    z, mask = _add(terms, branch.relu, keeps_bits)
    saved = [tensor for k in kept for tensor in k]
    return z, (*saved, mask) if keeps_bits else tuple(saved)


def statistics(
    branch: BranchSpec, tensors: Sequence[ConvTensors], saved: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """(mean, invstd) [K] of every batch norm."""
    return [
        (k.output_mean if isinstance(k, Expanded) else k.mean, k.invstd)
        for k in _unpack(branch, tensors, saved)
    ]


def backward(
    branch: BranchSpec,
    dz: Tensor,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
    saved: Sequence[Tensor],
    needs: BranchNeeds,
) -> BranchGradients:
    """The gradients that are needed, from what `forward` saved."""
    kept = _unpack(branch, tensors, saved)
    gradients = [ConvGradients()] * len(tensors)
    end = Behind(as_channels_last(dz), _gate_of(branch, kept, saved))

    # The shortcut, first: the branch's last dgrad adds its gradient.
    start = x if source is None else source
    wants_start = needs.x if source is None else needs.source
    serve(tensors[len(branch.units) - 1].weight)
    added: AddedGradient | None = None
    if isinstance(branch.shortcut, ConvSpec):
        projection, operand, sampled = kept[-1], Operand(start), 1
        if isinstance(projection, Expanded):
            operand = closed_form.shifted_input(start, projection.shift)
            sampled = branch.shortcut.geometry.stride[0]
        gradients[-1], of_start = _conv_backward(
            end,
            projection,
            branch.shortcut,
            tensors[-1],
            needs.convolutions[-1],
            Input(operand),
            wants_start,
        )
        if of_start is not None:
            added = AddedGradient(of_start.g, None, sampled)
    elif branch.shortcut is not None and wants_start:
        added = _added_gradient(branch, end, start)

    # The units, last to first.
    def wants_input(i: int) -> bool:
        """Of unit i: its own, or anything below it."""
        return needs.x or any(any(n) for n in needs.convolutions[:i])

    behind = end
    for i in reversed(range(len(branch.units))):
        read = Input(Operand(x), added=added if source is None else None)
        if i > 0:
            before, spec, needed = (
                _convolved(kept[i - 1]),
                branch.units[i - 1],
                needs.convolutions[i - 1],
            )
            operand = normalised(before, spec.relu)
            if isinstance(unit := kept[i], Expanded):
                operand = closed_form.shifted_activation(before, unit.shift)
            sums = wants_sums(spec, needed, needed.weight or wants_input(i - 1))
            read = Input(operand, before, spec.relu, sums)
        gradients[i], below = _conv_backward(
            behind,
            kept[i],
            branch.units[i],
            tensors[i],
            needs.convolutions[i],
            read,
            wants_input(i),
        )
        if below is None:
            break
        behind = below
    dx = behind.g if needs.x else None
    dsource = None if source is None or added is None else _spread(added, source)
    return BranchGradients(dx, dsource, gradients)


def _added_gradient(branch: BranchSpec, behind: Behind, start: Tensor) -> AddedGradient:
    """The gradient of what an identity or option A takes from `start`; gated on load where that goes."""
    stride = branch.shortcut.stride if isinstance(branch.shortcut, ZeroPad) else 1
    if behind.gate.mask is None or behind.g.shape[1] % PIECE or start.shape[1] % PIECE:
        # A byte of bits belongs to 8 channels of one pixel only where channels come in eights.
        return AddedGradient(gated(behind), None, stride)
    return AddedGradient(behind.g, behind.gate.mask, stride)


def _spread(added: AddedGradient, start: Tensor) -> Tensor:
    """The added gradient as a tensor of its own, in the shape of what it is the gradient of."""
    g = gated(Behind(added.tensor, SavedGate(added.mask)))
    return g if g.shape == start.shape else spread(g, start, added.stride)


def _add(terms: Sequence[Stored | Pending], relu: bool, bits: bool) -> tuple[Tensor, Tensor]:
    """relu?(the terms' sum) and its bits, in one launch. Reads what is stored, and what the pending
    ones read; writes z and its bits."""
    stored = [term for term in terms if isinstance(term, Stored)]
    pending = [term for term in terms if isinstance(term, Pending)]
    if len(pending) == 2:
        first, second = pending
        z, _, mask = _ops._bottleneck_expand.default(
            *(first.read.tensor, as_channels_last(first.weight), first.scale, first.bias),
            *(second.read.tensor, as_channels_last(second.weight), second.scale, second.bias),
            *(second.stride, relu, False),
            mask=bits,
            x_scale=first.read.scale,
            x_bias=first.read.bias,
            x_floor=first.read.floor,
            projection_x_scale=second.read.scale,
            projection_x_bias=second.read.bias,
            projection_x_floor=second.read.floor,
        )
        return z, mask
    biases = [term.bias for term in terms if term.bias is not None]
    bias = sum(biases[1:], biases[0])
    if not pending:
        y, *others = stored
        other = others[0] if others else Stored(None)
        return _ops._bn_apply.default(
            *(y.tensor, y.scale, bias, other.tensor, relu, bits), residual_scale=other.scale
        )
    first = pending[0]
    other = stored[0] if stored else Stored(None)
    x, x_scale, x_bias, x_floor = first.read
    z, _, mask = _ops._conv_fprop.default(
        *(x, as_channels_last(first.weight), x_scale, x_bias, first.scale, bias),
        *(other.tensor, relu, *ConvGeometry((first.stride, first.stride)), False),
        x_floor=x_floor,
        residual_scale=other.scale,
        mask=bits,
    )
    return z, mask


def closed_form_obstacle(branch: BranchSpec, tensors: Sequence[ConvTensors], i: int) -> str | None:
    """Why the output of convolution i is stored; None where its batch norm is had in closed form."""
    last = len(branch.units) - 1
    if i < last:
        return "the next convolution reads it"
    own = closed_form.obstacle(branch.convolutions[i], tensors[i], branch.options.closed_form)
    if own is None and i == last and not (last > 0 and branch.units[last - 1].relu):
        return "what it reads is not another unit's ReLU"
    return own


def _unpack(
    branch: BranchSpec, tensors: Sequence[ConvTensors], saved: Sequence[Tensor]
) -> list[Kept]:
    kept: list[Kept] = []
    rest = iter(saved)
    for i in range(len(branch.convolutions)):
        kind = Convolved if closed_form_obstacle(branch, tensors, i) is not None else Expanded
        kept.append(kind(*islice(rest, len(kind._fields))))
    return kept


def _convolved(kept: Kept) -> Convolved:
    """All but the last unit and the projection are."""
    assert isinstance(kept, Convolved)
    return kept


def _conv_backward(
    behind: Behind,
    kept: Kept,
    spec: ConvSpec,
    t: ConvTensors,
    needed: ConvNeeds,
    read: Input,
    wants_input: bool,
) -> tuple[ConvGradients, Behind | None]:
    serve(t.weight)
    if isinstance(kept, Expanded):
        return closed_form.backward(behind, kept, spec, t, needed, read, wants_input)
    return convolve_backward(behind, kept, spec, t, needed, read, wants_input)


def _gates_by_y(branch: BranchSpec, kept: Sequence[Kept]) -> bool:
    """Whether the branch's ReLU is found again from the last y alone."""
    return branch.shortcut is None and isinstance(kept[-1], Convolved)


def _gate_of(branch: BranchSpec, kept: Sequence[Kept], saved: Sequence[Tensor]) -> SavedGate:
    """How the branch's own ReLU is known."""
    if not branch.relu:
        return OPEN
    if not _gates_by_y(branch, kept):
        return SavedGate(saved[-1])
    last = _convolved(kept[-1])
    return SavedGate(None, last.scale, last.bias)
