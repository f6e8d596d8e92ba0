"""One unit of a branch as a call, relu?(bn(conv(x)) + residual): what every op with a convolution comes down to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _validate
from resnet_cuda.ops._branch import (
    BranchSpec,
    BranchTensors,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
    requires_grad,
    run_branch,
)
from resnet_cuda.ops._checked import CheckedUnit, checked_unit
from resnet_cuda.ops._interface import Backend, BatchNormTensors, ConvGeometry
from resnet_cuda.ops._layout import in_format, match_format
from resnet_cuda.ops._running import restored_on_error
from resnet_cuda.ops._synchronised import breaks_graph, run_eagerly

if TYPE_CHECKING:
    from resnet_cuda.ops.conv_unit import ConvUnit


def run_unit(
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    relu: bool,
    *,
    launch: str | None = None,
    pad: ZeroPad | None = None,
    donate_residual: bool = False,
    widened_from: torch.dtype | None = None,
    restores: bool = True,
) -> Tensor:
    """A unit with the ReLU flag, kernels, shortcut and inference privileges that its caller chooses.

    launch: which kernels run the convolution: "conv", the bottleneck's "reduce" and "expand", or, at inference on
        backends that fuse a max-pool, "max_pool", which also pools 3x3 windows with stride 2. None: those of a
        bottleneck's end where the unit is one.
    pad: how the residual is read where it does not have the output's shape.
    donate_residual, widened_from: at inference on the CPU a donated residual may be overwritten, and `widened_from` is
        the dtype of a network whose activations run in a wider one here (x, residual and the result are wide).
    restores: False where the caller restores running statistics if this fails.
    """
    if pad is None and widened_from is None:
        plain = _backend.undisturbed(x)
        if plain is not None:
            return run_unit_plainly(plain, x, unit, residual, relu, donate_residual, restores)
    how = _How(relu, launch, pad, donate_residual)
    return _run_anywhere(x, unit, residual, how, widened_from, restores)


def run_unit_plainly(
    plain: Backend,
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    relu: bool,
    donate_residual: bool = False,
    restores: bool = True,
) -> Tensor:
    """`run_unit` where `_backend.undisturbed(x)` is `plain`."""
    if not unit.batch_norm:
        known = checked_unit(x, unit, None, None, None)
        return _end(torch.conv2d(x, unit.weight, None, *known.numbers), residual, relu)
    known = checked_unit(x, unit, residual, None, None)
    if known.as_it_is and not unit.dropout:
        if unit.training:
            with restored_on_error(unit, restores=restores):
                trained = plain.unit_as_it_is(x, unit, residual, known.numbers, relu)
                return in_format(trained, known.channels_last)
        if _infers(x, unit, residual):
            z: Tensor | None = None
            if unit.folded is not None:
                z = _folded(plain, x, unit, residual, known, relu, donate_residual, None)
            if z is None:
                z = plain.unit_as_it_is(x, unit, residual, known.numbers, relu)
            return in_format(z, known.channels_last)
    return _run_anywhere(
        x, unit, residual, _How(relu, "conv", None, donate_residual), None, restores
    )


class _How(NamedTuple):
    """What the caller of `run_unit` chooses."""

    relu: bool
    launch: str | None
    pad: ZeroPad | None
    donate_residual: bool


def _run_anywhere(
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    how: _How,
    widened_from: torch.dtype | None,
    restores: bool,
) -> Tensor:
    """`run_unit` on any backend, under autocast and transforms, in a graph."""
    if not unit.batch_norm:
        return _run_bare(x, unit, residual, how.relu, how.pad)
    if unit.process_group is not None and breaks_graph(x, unit.group()):
        return run_eagerly(_run_anywhere, x, unit, residual, how, widened_from, restores)
    if type(x) is not Tensor:
        _validate.activation(x, "x")
    backend = _backend.resolve(x)
    cast_to = widened_from or _autocast.autocast_dtype(x)
    if cast_to is not None and widened_from is None:
        x = _autocast.cast(x, cast_to)
        residual = None if residual is None else _autocast.cast(residual, cast_to)
    known = checked_unit(x, unit, residual, how.pad, cast_to)
    with restored_on_error(unit, restores=restores):
        z = _computed(backend, x, unit, residual, known, how)
    return F.dropout(z, unit.dropout) if unit.dropout else z


def _infers(x: Tensor, unit: ConvUnit, residual: Tensor | None) -> bool:
    """Whether nothing is differentiated or trained."""
    return not unit.training and not (
        torch.is_grad_enabled() and requires_grad(x, unit.weight, unit.gamma, unit.beta, residual)
    )


def _folded(
    backend: Backend,
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    known: CheckedUnit,
    relu: bool,
    donate_residual: bool,
    pad: ZeroPad | None,
) -> Tensor | None:
    assert unit.folded is not None
    return backend.folded_inference(
        *(x, unit.weight, unit.bn(), residual, known.geometry, unit.eps, relu),
        *(unit.folded, donate_residual, pad),
    )


def _computed(
    backend: Backend,
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    known: CheckedUnit,
    how: _How,
) -> Tensor:
    """The checked call."""
    weight, infers = unit.weight, _infers(x, unit, residual)
    if infers and unit.folded is not None and x.shape[0] != 0:
        if not torch.compiler.is_compiling():
            donate, pad = how.donate_residual, how.pad
            z = _folded(backend, x, unit, residual, known, how.relu, donate, pad)
            if z is not None:
                return match_format(z, known.channels_last)
    if weight.dtype != x.dtype:
        weight = weight.to(x.dtype)
    z = _by_passes(backend, x, weight, unit, residual, known, how, infers)
    return match_format(z, known.channels_last)


def _by_passes(
    backend: Backend,
    x: Tensor,
    weight: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    known: CheckedUnit,
    how: _How,
    infers: bool,
) -> Tensor:
    """The call with `weight` in x's dtype, in whatever memory format its backend likes."""
    geometry, bn, norm = known.geometry, unit.bn(), unit.spec()
    is_empty = x.shape[0] == 0 and norm.process_group is None
    is_composite = backend.is_composite or (
        torch.compiler.is_compiling() and backend.gate_is_output
    )
    if (is_empty or is_composite) and residual is not None and how.pad is not None:
        residual = how.pad(residual)
    if is_empty:
        return _empty_batch(x, weight, bn, residual, geometry)
    if is_composite:
        from resnet_cuda import reference

        return reference.conv_bn_relu(
            x,
            weight,
            bn.gamma,
            bn.beta,
            bn.running_mean,
            bn.running_var,
            residual=residual,
            **geometry._asdict(),
            **norm._asdict(),
            relu=how.relu,
        )
    x = backend.prepare(x)
    residual = None if residual is None else backend.prepare(residual)
    if infers:
        launch = how.launch or _bottlenecks(known, residual)
        return backend.conv_bn_inference(
            x, weight, bn, residual, geometry, norm, how.relu, launch, how.pad
        )
    if how.pad is None and backend.uses_torch_autograd(norm.process_group):
        return backend.conv_bn_composed(x, weight, bn, residual, geometry, norm, how.relu)
    branch = BranchSpec(
        (ConvSpec(geometry, norm, how.relu),),
        None if residual is None else how.pad or Identity(),
        how.relu,
    )
    return run_branch(backend, branch, BranchTensors(x, residual, [ConvTensors(weight, *bn)]))


def _bottlenecks(known: CheckedUnit, residual: Tensor | None) -> str:
    """The kernels of a bottleneck's end where the unit is one."""
    if not known.pointwise:
        return "conv"
    if residual is None:
        return "reduce"
    return "expand" if known.geometry.stride == (1, 1) else "conv"


def _empty_batch(
    x: Tensor,
    weight: Tensor,
    bn: BatchNormTensors,
    residual: Tensor | None,
    g: ConvGeometry,
) -> Tensor:
    """An empty output that still hands zero gradients to every input; statistics are not touched."""
    z = torch.conv2d(x, weight, None, g.stride, g.padding, g.dilation, g.groups)
    for vector in (bn.gamma, bn.beta):
        if vector is not None:
            z = z + vector.to(z.dtype).view(1, -1, 1, 1)
    return z if residual is None else z + residual


def _run_bare(
    x: Tensor, unit: ConvUnit, residual: Tensor | None, relu: bool, pad: ZeroPad | None
) -> Tensor:
    """relu?(conv(x) + residual)."""
    z = _convolve(x, unit)
    if residual is not None and pad is not None:
        z, residual = pad.add_to_(z, residual), None
    return _end(z, residual, relu)


def _end(z: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """relu?(z + residual) in torch's dtype for a sum."""
    if residual is not None:
        z = z + residual
    return torch.relu(z) if relu else z


def _convolve(x: Tensor, unit: ConvUnit) -> Tensor:
    """The convolution of a unit without batch norm."""
    backend = _backend.resolve(x)
    known = checked_unit(x, unit, None, None, None)
    if x.shape[0] == 0 or not backend.normalises_on_load:
        return torch.conv2d(x, unit.weight, None, *known.numbers)
    dtype = _autocast.autocast_dtype(x) or x.dtype
    tensors = ConvTensors(unit.weight.to(dtype), None, None, None, None)
    branch = BranchSpec((ConvSpec(known.geometry, None, False),), None, False)
    z = run_branch(backend, branch, BranchTensors(backend.prepare(x.to(dtype)), None, [tensors]))
    return match_format(z, known.channels_last)
