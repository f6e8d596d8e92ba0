"""A whole residual block as one differentiable call (He et al. 2015, arXiv 1512.03385, sec. 3.2-3.3).

The modules describe a block as conv units and a shortcut; this is the one executor of such descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _validate
from resnet_cuda.ops._branch import (
    BranchOptions,
    BranchSpec,
    ConvSpec,
    ConvTensors,
    Identity,
    ZeroPad,
    check_memory,
    requires_grad,
    run_branch,
)
from resnet_cuda.ops._folding import is_plain
from resnet_cuda.ops._interface import Backend
from resnet_cuda.ops._layout import is_channels_last, match_format
from resnet_cuda.ops._synchronised import breaks_graph, run_eagerly
from resnet_cuda.ops.bottleneck import bottleneck_expand
from resnet_cuda.ops.conv_unit import ConvUnit, run_unit

Shortcut = ConvUnit | Identity | ZeroPad


def residual_branch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    *,
    donate_input: bool = False,
    memory: str = "save",
    closed_form: bool | None = None,
) -> Tensor:
    """relu(units[-1](... units[0](x)) + shortcut(x)): each unit with its own ReLU flag but the last.

    Args:
        x: [N, C, H, W].
        units: the branch's conv units in order; the last one's ReLU flag is ignored, the block's
            ReLU follows the addition.
        shortcut: a ConvUnit (projection; its ReLU flag is ignored), Identity, ZeroPad, or None: no
            addition (plain net).
        donate_input: the caller gives x up: where nothing is differentiated, the result may be
            written into its memory.
        memory: what is kept for the backward: "save" keeps raw convolution outputs and the bits of
            the ReLU, "recompute" x alone, and the backward runs the forward again: the results are
            the same to the last bit, and running statistics move once (collectives of a process group are
            made twice).
        closed_form: whether batch norms over 1x1 convolutions that end the branch, and over
            projections, are had from the Gram matrix of what the convolution reads, so that its
            output is never stored (docs/architecture.md). None: for bfloat16 and float16 on our
            kernels. Only where C and K are multiples of 8 and batch statistics are used.

    Returns:
        [N, K, P, Q], the last unit's output shape.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`; ValueError without units or for another `memory`.
    """
    if not units:
        raise ValueError("units is empty; accepted: at least one ConvUnit")
    if shortcut is not None and not isinstance(shortcut, (ConvUnit, Identity, ZeroPad)):
        raise TypeError(
            f"shortcut is a {type(shortcut).__name__}; accepted: ConvUnit, Identity, ZeroPad or None"
        )
    check_memory(memory)
    every = [*units, shortcut] if isinstance(shortcut, ConvUnit) else units
    groups = [unit.group() for unit in every]
    if any(map(breaks_graph, groups)):
        again = partial(residual_branch, memory=memory, closed_form=closed_form)
        return run_eagerly(again, x, units, shortcut)
    _validate.activation(x, "x")
    backend = _backend.resolve(x)
    takes_part = x.shape[0] > 0 or any(group is not None for group in groups)
    if takes_part and _is_one_call(backend, x, units, shortcut):
        options = BranchOptions(memory, closed_form)
        return _differentiable(backend, x, units, shortcut, options)
    dtype = _autocast.autocast_dtype(x) or x.dtype
    compute = _wider_dtype(x, dtype, units, shortcut)
    if compute is None:
        return _compose(x, units, shortcut, donate_input, None)
    wide = x.to(dtype).to(compute)
    return _compose(wide, units, shortcut, donate_input or wide is not x, dtype).to(dtype)


def _is_one_call(
    backend: Backend, x: Tensor, units: Sequence[ConvUnit], shortcut: Shortcut | None
) -> bool:
    """Whether the block is differentiated, or its batch norms move, on a backend that does it in one."""
    if backend.is_composite:
        return False
    if torch.compiler.is_compiling() and backend.gate_is_output:
        return False
    every = [*units, shortcut] if isinstance(shortcut, ConvUnit) else units
    if any(unit.training for unit in every):
        return True
    return torch.is_grad_enabled() and requires_grad(
        x, *(tensor for u in every for tensor in (u.weight, u.gamma, u.beta))
    )


def _differentiable(
    backend: Backend,
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    options: BranchOptions,
) -> Tensor:
    """The whole block as one autograd function."""
    autocast = _autocast.autocast_dtype(x)
    dtype = autocast or x.dtype
    start = flow = _validate.Planned(x.shape, x.device)
    specs, tensors = [], []

    def add(unit: ConvUnit, read: _validate.Planned) -> _validate.Planned:
        call = unit.call(unit.relu)
        shape = _validate.convolution(read, unit.weight, call.geometry)
        if autocast is None:
            _validate.weight_dtype(unit.weight, dtype)
        _validate.batch_norm(read, dtype, unit.bn(), shape, *call.norm)
        specs.append(ConvSpec(call.geometry, call.norm, unit.relu))
        tensors.append(ConvTensors(unit.weight.to(dtype), *unit.bn()))
        return _validate.Planned(shape, x.device)

    for unit in units:
        flow = add(unit, flow)
    if isinstance(shortcut, ConvUnit):
        _validate.same_shape(add(shortcut, start).shape, flow.shape)
    elif isinstance(shortcut, ZeroPad):
        _validate.same_shape(shortcut.shape(x.shape), flow.shape)
    elif shortcut is not None:
        _validate.same_shape(x.shape, flow.shape)
    end = specs.pop() if isinstance(shortcut, ConvUnit) else shortcut
    branch = BranchSpec(tuple(specs), end, True, options)
    channels_last = is_channels_last(x) or any(is_channels_last(u.weight) for u in units)
    z = run_branch(backend, branch, backend.prepare(x.to(dtype)), None, tensors)
    return match_format(z, channels_last)


def _wider_dtype(
    x: Tensor, dtype: torch.dtype, units: Sequence[ConvUnit], shortcut: Shortcut | None
) -> torch.dtype | None:
    """The dtype in which CPU inference of the whole block is faster than in its own, if there is one."""
    if not is_plain(x) or x.shape[0] == 0:
        return None
    compute = _backend.resolve(x).inference_dtype(dtype)
    if compute == dtype:
        return None
    every = [*units, shortcut] if isinstance(shortcut, ConvUnit) else units
    for unit in every:
        if unit.training or unit.folded is None:
            return None
        if not isinstance(unit.weight, Tensor) or unit.weight.dtype not in (x.dtype, dtype):
            return None  # the unit's own checks say what is wrong
        if torch.is_grad_enabled() and requires_grad(x, unit.weight, unit.gamma, unit.beta):
            return None
    return compute


def _compose(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    donate_input: bool,
    widened_from: torch.dtype | None,
) -> Tensor:
    z = x
    for unit in units[:-1]:
        z = run_unit(z, unit, None, unit.relu, launch=_launch(unit), widened_from=widened_from)
    last = units[-1]
    if shortcut is None:
        return run_unit(z, last, None, True, launch=_launch(last), widened_from=widened_from)
    if isinstance(shortcut, ConvUnit):
        if _backend.resolve(x).fuses_projection and _expands(last) and shortcut.is_pointwise:
            return bottleneck_expand(
                z,
                last.weight,
                *last.bn(),
                x,
                projection=shortcut,
                training=last.training,
                momentum=last.momentum,
                eps=last.eps,
                process_group=last.process_group,
            )
        launch = _launch(shortcut)
        residual = run_unit(x, shortcut, None, False, launch=launch, widened_from=widened_from)
    elif isinstance(shortcut, ZeroPad):
        residual = shortcut(x)
    else:
        residual = x
    return run_unit(
        z,
        last,
        residual,
        True,
        launch="expand" if _expands(last) else "conv",
        # A branch of one unit convolves the very tensor that it adds: that one must stay whole.
        donate_residual=residual is not z and (residual is not x or donate_input),
        widened_from=widened_from,
    )


def _launch(unit: ConvUnit) -> str:
    return "reduce" if unit.is_pointwise else "conv"


def _expands(unit: ConvUnit) -> bool:
    return unit.is_pointwise and unit.stride in (1, (1, 1))
