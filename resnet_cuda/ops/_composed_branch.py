"""The executor of residual branches where nothing is fused across convolutions: unit by unit, every
activation stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    spread,
)
from resnet_cuda.ops._interface import Needs

if TYPE_CHECKING:
    from resnet_cuda.ops._aten import AtenBackend


def forward(
    backend: AtenBackend,
    branch: BranchSpec,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """z, and of every convolution (y, mean, spread); of all units but the last also their output."""
    saved: list[Tensor] = []
    start = x if source is None else source
    residual = None
    if isinstance(branch.shortcut, ConvSpec):
        spec, t = branch.shortcut, tensors[-1]
        residual, projected = backend.conv_bn_forward(start, t, spec, None, relu=False)
    elif isinstance(branch.shortcut, ZeroPad):
        residual = branch.shortcut(start)
    elif isinstance(branch.shortcut, Identity):
        residual = start
    z = x
    last = len(branch.units) - 1
    for i, (spec, t) in enumerate(zip(branch.units, tensors, strict=False)):
        if i < last:
            z, kept = backend.conv_bn_forward(z, t, spec, None, relu=spec.relu)
            saved += [*kept, z]
        else:
            z, kept = backend.conv_bn_forward(z, t, spec, residual, relu=branch.relu)
            saved += kept
    if isinstance(branch.shortcut, ConvSpec):
        saved += projected
    return z, tuple(saved)


def statistics(
    backend: AtenBackend, branch: BranchSpec, saved: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """(mean, invstd) [K] of every batch norm."""
    found = []
    for i, spec in enumerate(branch.convolutions):
        _, mean, spread = _kept(branch, saved, i)
        found.append(backend.statistics((mean, spread), spec.norm))
    return found


def backward(
    backend: AtenBackend,
    branch: BranchSpec,
    dz: Tensor,
    z: Tensor | None,
    x: Tensor,
    source: Tensor | None,
    tensors: Sequence[ConvTensors],
    saved: Sequence[Tensor],
    needs: BranchNeeds,
) -> BranchGradients:
    gradients = [ConvGradients()] * len(tensors)
    units = len(branch.units)
    start = x if source is None else source
    wants_source = branch.shortcut is not None and (needs.x if source is None else needs.source)
    wants_du = wants_source or any(any(n) for n in needs.convolutions[units:])
    outputs = [saved[4 * i + 3] for i in range(units - 1)]  # of all units but the last
    g: Tensor | None = dz
    du = None
    for i in reversed(range(units)):
        needed = needs.convolutions[i]
        reaches = needs.x or any(any(n) for n in needs.convolutions[:i])
        is_last = i == units - 1
        relu = branch.relu if is_last else branch.units[i].relu
        wants = Needs(reaches, *needed, residual=is_last and wants_du)
        if g is None or not any(wants):
            continue
        found = backend.conv_bn_backward(
            g,
            outputs[i - 1] if i > 0 else x,
            tensors[i],
            branch.units[i],
            (z if is_last else outputs[i]) if relu else None,
            _kept(branch, saved, i),
            wants,
        )
        gradients[i] = ConvGradients(found.weight, found.gamma, found.beta)
        g = found.x
        du = found.residual if is_last else du
    dsource = du
    if du is not None and isinstance(branch.shortcut, ZeroPad):
        dsource = spread(du, start, branch.shortcut.stride)
    elif du is not None and isinstance(branch.shortcut, ConvSpec):
        wants = Needs(wants_source, *needs.convolutions[-1], residual=False)
        kept = _kept(branch, saved, units)
        found = backend.conv_bn_backward(du, start, tensors[-1], branch.shortcut, None, kept, wants)
        gradients[-1] = ConvGradients(found.weight, found.gamma, found.beta)
        dsource = found.x
    if not wants_source:
        dsource = None
    if source is not None:
        return BranchGradients(g if needs.x else None, dsource, gradients)
    dx = g if needs.x else None
    if dx is not None and dsource is not None:
        dx = dx + dsource
    return BranchGradients(dx, None, gradients)


def _kept(branch: BranchSpec, saved: Sequence[Tensor], i: int) -> Sequence[Tensor]:
    """(y, mean, spread) of the i-th convolution."""
    first = 4 * i if i < len(branch.units) else 4 * i - 1
    return saved[first : first + 3]
