"""The executor of residual branches on our kernels: forward and backward as short lists of passes.

Nothing that is normalised or activated is stored inside a branch. A convolution stores its raw
output y and sums from which batch norm's statistics follow; whoever reads y normalises and activates
it on its way in. Back again, every dgrad adds, gates and sums in its epilogue what the batch norm
before it needs. `_kernel_passes` says what each pass reads and writes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    ConvGradients,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
)
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

_ops = torch.ops.resnet_cuda


def forward(
    branch: BranchSpec, x: Tensor, source: Tensor | None, tensors: Sequence[ConvTensors]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `backward` wants to have: every `Convolved`, and the bits of z's ReLU where there
    is a shortcut."""
    kept: list[Convolved] = []
    start = x if source is None else source
    # The units, each reading the y before it.
    read = Operand(x)
    for spec, t in zip(branch.units, tensors, strict=False):
        kept.append(convolve(read, spec, t))
        read = normalised(kept[-1], spec.relu)
    y, _, _, scale, bias = kept[-1]
    # The shortcut.
    residual: Tensor | None = None
    residual_scale: Tensor | None = None
    if isinstance(branch.shortcut, ConvSpec):
        kept.append(convolve(Operand(start), branch.shortcut, tensors[-1]))
        residual, _, _, residual_scale, residual_bias = kept[-1]
        bias = bias + residual_bias
    elif isinstance(branch.shortcut, ZeroPad):
        residual = as_channels_last(branch.shortcut(start))
    elif isinstance(branch.shortcut, Identity):
        residual = start
    # Normalise, add, activate. Reads y and the shortcut; writes z and a bit per element.
    keeps_bits = branch.relu and residual is not None
    z, mask = _ops._bn_apply.default(
        y, scale, bias, residual, branch.relu, keeps_bits, residual_scale=residual_scale
    )
    saved = [tensor for c in kept for tensor in c]
    return z, (*saved, mask) if keeps_bits else tuple(saved)


def statistics(branch: BranchSpec, saved: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(mean, invstd) [K] of every batch norm."""
    return [(c.mean, c.invstd) for c in _unpack(branch, saved)]


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
    kept = _unpack(branch, saved)
    gradients = [ConvGradients()] * len(tensors)
    units = len(branch.units)
    behind: Behind | None = Behind(as_channels_last(dz), _gate_of(branch, kept[units - 1], saved))
    assert behind is not None

    # The shortcut, first: the branch's last dgrad adds its gradient.
    start = x if source is None else source
    wants_start = needs.x if source is None else needs.source
    added: AddedGradient | None = None
    if isinstance(branch.shortcut, ConvSpec):
        gradients[-1], of_start = convolve_backward(
            behind,
            kept[-1],
            branch.shortcut,
            tensors[-1],
            needs.convolutions[-1],
            Input(Operand(start)),
            wants_start,
        )
        added = None if of_start is None else AddedGradient(of_start.g)
    elif branch.shortcut is not None and wants_start:
        added = _added_gradient(branch, behind, start)

    # The units, last to first.
    def wants_input(i: int) -> bool:
        """Of unit i: its own, or anything below it."""
        return needs.x or any(any(n) for n in needs.convolutions[:i])

    for i in reversed(range(units)):
        read = Input(Operand(x), added=added if source is None else None)
        if i > 0:
            before, spec, needed = kept[i - 1], branch.units[i - 1], needs.convolutions[i - 1]
            sums = wants_sums(spec, needed, needed.weight or wants_input(i - 1))
            read = Input(normalised(before, spec.relu), before, spec.relu, sums)
        gradients[i], behind = convolve_backward(
            behind,
            kept[i],
            branch.units[i],
            tensors[i],
            needs.convolutions[i],
            read,
            wants_input(i),
        )
        if behind is None:
            break
    dx = None if behind is None else behind.g
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
    if g.shape == start.shape:
        return g
    spread = torch.zeros_like(start)
    spread[:, :, :: added.stride, :: added.stride] = g[:, : start.shape[1]]
    return spread


def _unpack(branch: BranchSpec, saved: Sequence[Tensor]) -> list[Convolved]:
    count = len(Convolved._fields)
    return [Convolved(*saved[i * count : (i + 1) * count]) for i in range(len(branch.convolutions))]


def _gate_of(branch: BranchSpec, last: Convolved, saved: Sequence[Tensor]) -> SavedGate:
    """How the branch's own ReLU is known."""
    if not branch.relu:
        return OPEN
    return (
        SavedGate(None, last.scale, last.bias) if branch.shortcut is None else SavedGate(saved[-1])
    )
