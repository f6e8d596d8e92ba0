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

from torch import Tensor

from resnet_cuda.ops import _closed_form as closed_form
from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    BranchTensors,
    ConvGradients,
    ConvNeeds,
    ConvSpec,
    ConvTensors,
    Identity,
    Statistics,
    ZeroPad,
    spread,
    values_per_channel,
)
from resnet_cuda.ops._branch_sum import Pending, Stored, add, is_one_product
from resnet_cuda.ops._closed_form import Expanded
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
    convolve_raw,
    dropped,
    enter,
    enter_backward,
    gated,
    needs_sums,
    normalised,
    wants_sums,
)
from resnet_cuda.ops._layout import as_channels_last
from resnet_cuda.ops._saved_gate import SavedGate
from resnet_cuda.ops._serving import serve


class Plain(NamedTuple):
    """What is kept of a convolution without batch norm: nothing."""


Kept = Convolved | Expanded | Plain  # of every convolution, for the backward


def forward(branch: BranchSpec, tensors: BranchTensors) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `backward` wants to have: what is `Kept` of every convolution, the numbers of the
    batch norm that enters, and the bits of z's ReLU unless the last y tells."""
    kept: list[Kept] = []
    terms: list[Stored | Pending] = []
    convolutions = tensors.convolutions
    last = len(branch.units) - 1

    def convolved(read: Operand, spec: ConvSpec, t: ConvTensors) -> Stored:
        c = convolve(read, spec, t)
        kept.append(c)
        return Stored(c.y, c.scale, c.bias)

    def expanded(read: Operand, shift: Tensor, spec: ConvSpec, t: ConvTensors) -> Pending:
        e, norm = closed_form.forward(read, shift, spec, t)
        kept.append(e)
        return Pending(read, spec.geometry, t.weight, *norm)

    def plain(read: Operand, spec: ConvSpec, t: ConvTensors, waits: bool) -> Stored | Pending:
        kept.append(Plain())
        if waits:
            return Pending(read, spec.geometry, t.weight)
        return Stored(convolve_raw(read, spec, t)[0])

    # The batch norm that enters.
    serve(convolutions[0].weight)
    read = Operand(tensors.x)
    entry: Convolved | None = None
    if branch.entry is not None and tensors.entry is not None:
        entry = enter(tensors.x, tensors.entry, branch.entry)
        read = normalised(entry, True)
    start = read if tensors.source is None else Operand(tensors.source)
    # The units, each reading the y before it.
    for spec, t in zip(branch.units[:last], convolutions, strict=False):
        serve(t.weight)
        convolved(read, spec, t)
        read = normalised(_convolved(kept[-1]), spec.relu)
        if t.noise is not None:
            read = Operand(dropped(_convolved(kept[-1]), t.noise)[0])
    # The last unit, which waits where its batch norm follows from what it reads, or it has none.
    spec, t = branch.units[last], convolutions[last]
    serve(t.weight)
    if spec.norm is None:
        # What normalises on load adds no sampled shortcut.
        terms.append(plain(read, spec, t, waits=not isinstance(branch.shortcut, ZeroPad)))
    elif closed_form_obstacle(branch, tensors, last) is None:
        before = _convolved(kept[-1])
        shift = closed_form.shift_of_activation(
            convolutions[last - 1].beta, before.bias, tensors.x.dtype
        )
        terms.append(expanded(closed_form.shifted_activation(before, shift), shift, spec, t))
    else:
        terms.append(convolved(read, spec, t))
    # The shortcut.
    if isinstance(branch.shortcut, ConvSpec):
        spec, t = branch.shortcut, convolutions[-1]
        serve(t.weight)
        if spec.norm is None:
            terms.append(plain(start, spec, t, is_one_product(branch, convolutions)))
        elif closed_form_obstacle(branch, tensors, last + 1) is None:
            shift = closed_form.shift_of_input(
                start.tensor, spec.geometry.stride[0], spec.norm.process_group
            )
            terms.append(expanded(closed_form.shifted_input(start.tensor, shift), shift, spec, t))
        else:
            terms.append(convolved(start, spec, t))
    elif isinstance(branch.shortcut, ZeroPad):
        terms.append(Stored(tensors.start, stride=branch.shortcut.stride))
    elif isinstance(branch.shortcut, Identity):
        terms.append(Stored(tensors.start))
    # Their sum, in the last unit's name.
    serve(convolutions[last].weight)
    keeps_bits = branch.relu and not _gates_by_y(branch, kept)
    z, mask = add(terms, branch.relu, keeps_bits)
    saved = [tensor for k in kept for tensor in k]
    if entry is not None:
        saved += entry[1:]  # x is an input
    return z, (*saved, mask) if keeps_bits else tuple(saved)


def statistics(
    branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
) -> list[Statistics | None]:
    """(mean, invstd) [K] of every batch norm."""
    kept, entry = _unpack(branch, tensors, saved)
    found: list[Statistics | None] = []
    for k in (*kept, entry):
        if isinstance(k, Expanded):
            found.append((k.output_mean, k.invstd))
        else:
            found.append((k.mean, k.invstd) if isinstance(k, Convolved) else None)
    return found


def backward(
    branch: BranchSpec,
    dz: Tensor,
    tensors: BranchTensors,
    saved: Sequence[Tensor],
    needs: BranchNeeds,
) -> BranchGradients:
    """The gradients that are needed, from what `forward` saved."""
    convolutions = tensors.convolutions
    kept, entry = _unpack(branch, tensors, saved)
    gradients = [ConvGradients()] * len(convolutions)
    end = Behind(as_channels_last(dz), _gate_of(branch, kept, saved))

    # What unit 0 read, and a projection without a source of its own.
    entered = Input(Operand(tensors.x))
    if entry is not None:
        sums = branch.entry is not None and needs_sums(branch.entry, needs.entry, needs.x)
        entered = Input(normalised(entry, True), entry, True, sums)

    # The shortcut, first: whoever ends at its start adds its gradient.
    serve(convolutions[len(branch.units) - 1].weight)
    added: AddedGradient | None = None
    if isinstance(branch.shortcut, ConvSpec):
        projection, sampled = kept[-1], 1
        read = Input(entered.operand if tensors.source is None else Operand(tensors.source))
        if isinstance(projection, Expanded):
            read = Input(closed_form.shifted_input(tensors.start, projection.shift))
            sampled = branch.shortcut.geometry.stride[0]
        gradients[-1], of_start = _conv_backward(
            end,
            projection,
            branch.shortcut,
            convolutions[-1],
            needs.convolutions[-1],
            read,
            needs.below(0) if tensors.source is None else needs.source,
        )
        if of_start is not None:
            added = AddedGradient(of_start.g, None, sampled)
    elif branch.shortcut is not None and (needs.x if tensors.source is None else needs.source):
        added = _added_gradient(branch, end, tensors.start)
    # A projection's gradient is of what unit 0 reads; another shortcut's is of x.
    of_unit = tensors.source is None and (entry is None or isinstance(branch.shortcut, ConvSpec))
    entered = entered._replace(added=added if of_unit else None)

    # The units, last to first.
    behind = end
    below: Behind | None = None
    for i in reversed(range(len(branch.units))):
        read = entered
        if i > 0:
            before, spec, needed = (
                _convolved(kept[i - 1]),
                branch.units[i - 1],
                needs.convolutions[i - 1],
            )
            operand = normalised(before, spec.relu)
            if isinstance(unit := kept[i], Expanded):
                operand = closed_form.shifted_activation(before, unit.shift)
            sums = wants_sums(spec, needed, needed.weight or needs.below(i - 1))
            read = Input(operand, before, spec.relu, sums)
            if (noise := convolutions[i - 1].noise) is not None:
                # The very bits that dropped it gate the gradient.
                h, mask = dropped(before, noise)
                read = Input(Operand(h), passed=SavedGate(mask))
        gradients[i], below = _conv_backward(
            behind,
            kept[i],
            branch.units[i],
            convolutions[i],
            needs.convolutions[i],
            read,
            needs.below(i),
        )
        if below is None:
            break
        behind = below

    # The batch norm that enters.
    dx = below.g if below is not None and needs.x else None
    of_entry = ConvGradients()
    if entry is not None and below is not None and branch.entry is not None:
        of_x = added if not of_unit and tensors.source is None else None
        of_entry, dx = enter_backward(
            below,
            entry,
            branch.entry,
            tensors.entry and tensors.entry.gamma,
            needs.entry,
            of_x,
            needs.x,
        )
    dsource = None
    if tensors.source is not None and added is not None:
        dsource = _spread(added, tensors.source)
    return BranchGradients(dx, dsource, gradients, of_entry)


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


def closed_form_obstacle(branch: BranchSpec, tensors: BranchTensors, i: int) -> str | None:
    """Why the output of convolution i is stored; None where its batch norm is had in closed form."""
    convolutions = tensors.convolutions
    last = len(branch.units) - 1
    if i < last:
        return "the next convolution reads it"
    if i > last and branch.units[last].norm is None:
        return "the last convolution adds it"
    spec = branch.convolutions[i]
    rows = values_per_channel(branch, tensors)[i]
    own = closed_form.obstacle(spec, convolutions[i], rows, branch.options.closed_form)
    if own is not None:
        return own
    if i > last:
        return None if branch.entry is None else "what it reads is activated first"
    if isinstance(branch.shortcut, ZeroPad):
        return "a sampled shortcut is added where the output is normalised"
    if not (last > 0 and branch.units[last - 1].relu):
        return "what it reads is not another unit's ReLU"
    return None if convolutions[last - 1].noise is None else "dropout lies before it"


def _unpack(
    branch: BranchSpec, tensors: BranchTensors, saved: Sequence[Tensor]
) -> tuple[list[Kept], Convolved | None]:
    """Of every convolution, and of the batch norm that enters."""
    kept: list[Kept] = []
    rest = iter(saved)
    for i, spec in enumerate(branch.convolutions):
        kind: type[Kept] = Expanded
        if spec.norm is None:
            kind = Plain
        elif closed_form_obstacle(branch, tensors, i) is not None:
            kind = Convolved
        kept.append(kind(*islice(rest, len(kind._fields))))
    return kept, None if branch.entry is None else Convolved(tensors.x, *islice(rest, 4))


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
    c = kept if isinstance(kept, Convolved) else None
    return convolve_backward(behind, c, spec, t, needed, read, wants_input)


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
