"""The executor of residual branches where nothing is fused across convolutions: unit by unit, every
activation stored."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from resnet_cuda.ops._branch import (
    BranchGradients,
    BranchNeeds,
    BranchSpec,
    BranchTensors,
    ConvGradients,
    ConvSpec,
    Statistics,
    ZeroPad,
    spread,
)
from resnet_cuda.ops._interface import Needs

if TYPE_CHECKING:
    from resnet_cuda.ops._aten import AtenBackend


class _Kept(NamedTuple):
    """What is saved, taken apart: (y, mean, spread) of every convolution with batch norm, () of the
    others; the outputs of all units but the last; (activation, mean, spread) of what enters."""

    convolutions: Sequence[Sequence[Tensor]]
    outputs: list[Tensor]
    entry: Sequence[Tensor]

    @classmethod
    def of(cls, branch: BranchSpec, saved: Sequence[Tensor]) -> _Kept:
        rest = iter(saved)
        convolutions = [
            tuple(islice(rest, 0 if spec.norm is None else 3)) for spec in branch.convolutions
        ]
        return cls(convolutions, list(islice(rest, len(branch.units) - 1)), tuple(rest))


def forward(
    backend: AtenBackend, branch: BranchSpec, tensors: BranchTensors
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and what `_Kept` is made of."""
    kept: list[Sequence[Tensor]] = []
    outputs: list[Tensor] = []
    entry: tuple[Tensor, ...] = ()
    a = tensors.x
    if branch.entry is not None and tensors.entry is not None:
        a, numbers = backend.bn_forward(a, tensors.entry, None, branch.entry, relu=True)
        entry = (a, *numbers)
    residual: Tensor | None = None
    pad = branch.shortcut if isinstance(branch.shortcut, ZeroPad) else None
    of_projection: tuple[Tensor, ...] = ()
    if isinstance(branch.shortcut, ConvSpec):
        start = a if tensors.source is None else tensors.source
        residual, of_projection = backend.conv_bn_forward(
            start, tensors.convolutions[-1], branch.shortcut, None, relu=False
        )
    elif branch.shortcut is not None:
        residual = tensors.start
    last = len(branch.units) - 1
    for i, (spec, t) in enumerate(zip(branch.units, tensors.convolutions, strict=False)):
        if i < last:
            a, numbers = backend.conv_bn_forward(a, t, spec, t.noise, spec.relu)
        else:
            a, numbers = backend.conv_bn_forward(a, t, spec, residual, branch.relu, pad)
        kept.append(numbers)
        outputs.append(a)
    if isinstance(branch.shortcut, ConvSpec):
        kept.append(of_projection)
    return a, (*(tensor for numbers in kept for tensor in numbers), *outputs[:-1], *entry)


def statistics(
    backend: AtenBackend, branch: BranchSpec, saved: Sequence[Tensor]
) -> list[Statistics | None]:
    """(mean, invstd) [K] of every batch norm."""
    kept = _Kept.of(branch, saved)
    return [
        None if norm is None else backend.statistics(numbers[1:], norm)
        for norm, numbers in zip(branch.norms, (*kept.convolutions, kept.entry), strict=True)
    ]


def backward(
    backend: AtenBackend,
    branch: BranchSpec,
    dz: Tensor,
    z: Tensor | None,
    tensors: BranchTensors,
    saved: Sequence[Tensor],
    needs: BranchNeeds,
) -> BranchGradients:
    kept = _Kept.of(branch, saved)
    gradients = [ConvGradients()] * len(tensors.convolutions)
    units = len(branch.units)
    own = tensors.source is not None  # the shortcut's gradient is a tensor of its own
    projects = isinstance(branch.shortcut, ConvSpec)
    entered = kept.entry[0] if kept.entry else tensors.x
    wants_start = needs.source if own else needs.below(0) if projects else needs.x
    wants_start = wants_start and branch.shortcut is not None
    wants_du = wants_start or any(any(n) for n in needs.convolutions[units:])
    g: Tensor | None = dz
    du = None
    for i in reversed(range(units)):
        needed = needs.convolutions[i]
        is_last = i == units - 1
        relu = branch.relu if is_last else branch.units[i].relu
        wants = Needs(needs.below(i), *needed, residual=is_last and wants_du)
        if g is None or not any(wants):
            g = None
            break
        found = backend.conv_bn_backward(
            g,
            kept.outputs[i - 1] if i > 0 else entered,
            tensors.convolutions[i],
            branch.units[i],
            (z if is_last else kept.outputs[i]) if relu else None,
            kept.convolutions[i],
            wants,
        )
        gradients[i] = ConvGradients(found.weight, found.gamma, found.beta)
        g = found.x
        du = found.residual if is_last else du
    dsource = du
    if du is not None and isinstance(branch.shortcut, ConvSpec):
        wants = Needs(wants_start, *needs.convolutions[-1], residual=False)
        read = tensors.start if own else entered
        found = backend.conv_bn_backward(
            du, read, tensors.convolutions[-1], branch.shortcut, None, kept.convolutions[-1], wants
        )
        gradients[-1] = ConvGradients(found.weight, found.gamma, found.beta)
        dsource = found.x
    dsource = dsource if wants_start else None
    if not own and projects:
        g, dsource = _sum(g, dsource), None
    of_entry = ConvGradients()
    if branch.entry is not None and tensors.entry is not None and g is not None:
        activation, *numbers = kept.entry
        wants = Needs(needs.x, *needs.entry, residual=False)
        found = backend.bn_backward(
            g, tensors.x, tensors.entry.gamma, activation, numbers, branch.entry, True, wants
        )
        g, of_entry = found.x, ConvGradients(None, found.gamma, found.beta)
    g = g if needs.x else None
    if dsource is not None and isinstance(branch.shortcut, ZeroPad):
        if not own and g is not None:
            return BranchGradients(
                branch.shortcut.add_gradient_to_(g, dsource), None, gradients, of_entry
            )
        dsource = spread(dsource, tensors.start, branch.shortcut.stride)
    if own:
        return BranchGradients(g, dsource, gradients, of_entry)
    return BranchGradients(_sum(g, dsource), None, gradients, of_entry)


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return a + b
