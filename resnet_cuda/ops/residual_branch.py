"""A whole residual block as one differentiable call (He et al. 2015, arXiv 1512.03385, sec. 3.2-3.3).

The modules describe a block as conv units and a shortcut; this is the one executor of such descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _validate
from resnet_cuda.ops._branch import (
    BranchOptions,
    BranchSpec,
    BranchTensors,
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
from resnet_cuda.ops._row_of_calls import moving_in_row, row_of_calls
from resnet_cuda.ops._running import restored_on_error
from resnet_cuda.ops._synchronised import breaks_graph, run_eagerly
from resnet_cuda.ops._unit_call import run_unit
from resnet_cuda.ops.bn_relu import run_norm
from resnet_cuda.ops.bottleneck import (
    bottleneck_block,
    bottleneck_expand_reduce,
    expand_and_project,
    is_block_launch,
    may_share_launch,
)
from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit, check_unit

Shortcut = ConvUnit | Identity | ZeroPad


def residual_branch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    *,
    entry: NormUnit | None = None,
    relu: bool = True,
    donate_input: bool = False,
    memory: str = "save",
    closed_form: bool | None = None,
) -> Tensor:
    """relu(units[-1](... units[0](x)) + shortcut(x)): each unit with its own ReLU flag but the last.

    With `entry`, a = relu(bn(x)) comes first, and it is units[-1](... units[0](a)) + shortcut(x), or
    + shortcut(a) where that is a projection: with relu=False and last convolutions without batch
    norm this is a pre-activation block (He et al. 2016, arXiv 1603.05027, fig. 4e; the projection's
    place as in that paper's networks and in wide ones).

    Args:
        x: [N, C, H, W].
        units: the branch's conv units in order; the last one's ReLU flag is ignored, the block's
            ReLU follows the addition.
        shortcut: a ConvUnit (projection; its ReLU flag is ignored), Identity, ZeroPad, or None: no
            addition (plain net).
        entry: the batch norm that x passes first, with its ReLU.
        relu: whether a ReLU follows the addition.
        donate_input: the caller gives x up: where nothing is differentiated, the result may be
            written into its memory.
        memory: what is kept for the backward: "save" keeps raw convolution outputs and the bits of
            the ReLU, "recompute" x alone, and the backward runs the forward again: the results are
            the same to the last bit, and running statistics move once (collectives of a process group are
            made twice).
        closed_form: whether batch norms over 1x1 convolutions that end the branch, and over
            projections, are had from the Gram matrix of what the convolution reads, so that its
            output is never stored (docs/architecture.md). None: for bfloat16 and float16 on our
            kernels, where there are at least 12 output pixels for each channel that is read. Only
            where C and K are multiples of 8 and batch statistics are used.

    Returns:
        [N, K, P, Q], the last unit's output shape, in x's dtype. Under `torch.autocast` in its dtype; where x
        is wider and added as it is, the sum has x's, as in torch.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`; ValueError without units, for another `memory`, for
            a unit without batch norm or with dropout where that is not accepted (see `ConvUnit`).
    """
    _check_units(units, shortcut)
    if entry is not None and not isinstance(entry, NormUnit):
        raise TypeError(f"entry is a {type(entry).__name__}; accepted: a NormUnit or None")
    check_memory(memory)
    plain = _backend.undisturbed(x) if memory == "save" else None
    moving = None if plain is None else moving_in_row(plain, x, units, shortcut, entry)
    if plain is not None and moving is not None:
        _validate.activation(x, "x")
        with restored_on_error(*moving):
            return row_of_calls(plain, x, units, shortcut, entry, relu, donate_input)
    call = _Call(tuple(units), shortcut, entry, relu, BranchOptions(memory, closed_form))
    groups = call.process_groups
    if groups and breaks_graph(x, *groups):
        again = partial(residual_branch, entry=entry, relu=relu, **call.options._asdict())
        return run_eagerly(again, x, units, shortcut)
    _validate.activation(x, "x")
    with restored_on_error(*call.norms):
        return _run(x, call, donate_input)


def _run(x: Tensor, call: _Call, donate_input: bool) -> Tensor:
    backend = _backend.resolve(x)
    if call.is_one(backend, x):
        return _differentiable(backend, x, call)
    dtype = _autocast.autocast_dtype(x) or x.dtype
    compute = backend.inference_dtype(dtype)
    if compute == dtype or not _may_widen(x, dtype, call):
        return _compose(backend, x, call, donate_input, None)
    wide = x.to(dtype).to(compute)
    return _compose(backend, wide, call, donate_input or wide is not x, dtype).to(dtype)


def chained_branch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    begun: Tensor | None,
    following: ConvUnit | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """`residual_branch` between two others at inference: its result, and what `following`, the first unit of the
    branch behind, makes of that where it shares the last launch (else None).

    Args:
        x, units, shortcut, options: as `residual_branch` has them.
        begun: what units[0] makes of x, where the branch before has shared its last launch.
        following: a unit that a branch without `entry` begins with, or None.
    """
    shares = following is not None and _shares_last_launch(x, units, shortcut, following)
    if begun is None and not shares:
        return residual_branch(x, units, shortcut, **options), None
    _check_units(units, shortcut)
    z, rest = (x, units) if begun is None else (begun, units[1:])
    for unit in rest[:-1]:
        z = run_unit(z, unit, None, unit.relu)
    if following is not None and shares:
        return bottleneck_expand_reduce(z, units[-1], x, following)
    call = _Call(tuple(units), shortcut, None, True, BranchOptions())
    return _finish(_backend.resolve(x), z, x, x, call, False, None), None


def _shares_last_launch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    following: ConvUnit,
) -> bool:
    """Whether the branch, of which nothing is trained, ends with a bottleneck's expand and an identity, and the one
    behind begins with a reduce. A whole block in one launch shares it with nobody."""
    return (
        following.relu
        and len(units) > 1
        and not any(unit.training for unit in units)
        and isinstance(shortcut, Identity)
        and may_share_launch(x, units[-1], x, following)
        and not is_block_launch(x, units)
    )


class _Call:
    """The arguments of a call but x, and what is asked of them more than once."""

    def __init__(
        self,
        units: tuple[ConvUnit, ...],
        shortcut: Shortcut | None,
        entry: NormUnit | None,
        relu: bool,
        options: BranchOptions,
    ) -> None:
        self.units, self.shortcut, self.entry = units, shortcut, entry
        self.relu, self.options = relu, options
        self.convolutions = (*units, shortcut) if isinstance(shortcut, ConvUnit) else units
        # Whatever has a batch norm in it, and over whose ranks these take statistics.
        self.norms: tuple[ConvUnit | NormUnit, ...] = self.convolutions
        if entry is not None:
            self.norms = (*self.norms, entry)
        self.process_groups: list[ProcessGroup] = []
        for unit in self.norms:
            if unit.process_group is not None and (group := unit.group()) is not None:
                self.process_groups.append(group)

    @property
    def is_identity_block(self) -> bool:
        """Whether a ReLU follows the sum of x itself and of a branch without `entry`."""
        return self.relu and self.entry is None and isinstance(self.shortcut, Identity)

    @property
    def is_preactivated(self) -> bool:
        """Whether more is in it than convolutions, each with its batch norm behind it."""
        return self.entry is not None or not all(u.batch_norm for u in self.convolutions)

    def keeps_wider(self, x: Tensor) -> bool:
        """Whether x meets what autocast does not cast: a batch norm that reads it, or the sum that adds it."""
        adds = isinstance(self.shortcut, (Identity, ZeroPad))
        return (self.entry is not None or adds) and _autocast.autocast_dtype(x) not in (
            None,
            x.dtype,
        )

    def is_one(self, backend: Backend, x: Tensor) -> bool:
        """Whether the block is differentiated, or its batch norms move, on a backend that does it in
        one; or that normalises on load what no inference can fold into filters."""
        # A rank without images takes part in what all ranks do.
        if backend.is_composite or (x.shape[0] == 0 and not self.process_groups):
            return False
        if torch.compiler.is_compiling() and backend.gate_is_output:
            return False
        if (
            not self.options.recompute
            and not isinstance(self.shortcut, ZeroPad)
            and backend.uses_torch_autograd(*self.process_groups)
        ):
            return False
        if self.keeps_wider(x):
            return False
        if any(unit.training for unit in self.norms):
            return True
        if self.is_preactivated and backend.normalises_on_load:
            return True
        return torch.is_grad_enabled() and requires_grad(
            x, *(u.weight for u in self.convolutions), *(v for u in self.norms for v in u.bn()[:2])
        )


def _check_units(units: Sequence[ConvUnit], shortcut: Shortcut | None) -> None:
    if not isinstance(units, Sequence):
        raise TypeError(f"units is a {type(units).__name__}; accepted: a sequence of ConvUnit")
    if not units:
        raise ValueError("units is empty; accepted: at least one ConvUnit")
    if shortcut is not None and not isinstance(shortcut, (ConvUnit, Identity, ZeroPad)):
        raise TypeError(
            f"shortcut is a {type(shortcut).__name__}; accepted: ConvUnit, Identity, ZeroPad or None"
        )
    last = len(units) - 1
    for i, unit in enumerate((*units, shortcut) if isinstance(shortcut, ConvUnit) else units):
        if type(unit) is ConvUnit and unit.batch_norm and unit.dropout == 0.0:
            if isinstance(unit.weight, Tensor):
                continue  # the usual case, quickly
        check_unit(unit, f"units[{i}]" if i <= last else "shortcut")
        fault = _fault_of(unit, ends=i >= last)
        if fault is not None:
            raise ValueError(f"units[{i}]{fault}" if i <= last else f"shortcut{fault}")


def _fault_of(unit: ConvUnit, ends: bool) -> str | None:
    """What a unit has that a branch cannot take; ends: it is the last one, or the projection."""
    if not unit.batch_norm:
        if not ends:
            return ".batch_norm is False; accepted: only in the last unit and the shortcut"
        bare = unit.gamma is unit.beta is unit.running_mean is unit.running_var is None
        if unit.training or not bare:
            return (
                " has batch_norm=False and training=True or batch norm's vectors; accepted: "
                "training=False and None"
            )
    if not 0 <= unit.dropout <= 1:
        return f".dropout is {unit.dropout}; accepted: 0 to 1"
    if unit.dropout and (ends or not unit.relu):
        return (
            f".dropout is {unit.dropout}; accepted: 0 but behind the ReLU of a unit that is not "
            "the last"
        )
    return None


def _differentiable(backend: Backend, x: Tensor, call: _Call) -> Tensor:
    """The whole block as one autograd function."""
    autocast = _autocast.autocast_dtype(x)
    dtype = autocast or x.dtype
    start = flow = _validate.Planned(x.shape, x.device)
    specs, tensors = [], []
    if call.entry is not None:
        _validate.spatial(start)
        _validate.batch_norm(start, dtype, call.entry.bn(), x.shape, *call.entry.spec())

    def add(unit: ConvUnit, read: _validate.Planned) -> _validate.Planned:
        geometry, norm = unit.geometry(), unit.spec()
        shape = _validate.convolution(read, unit.weight, geometry)
        if autocast is None:
            _validate.weight_dtype(unit.weight, dtype)
        if unit.batch_norm:
            _validate.batch_norm(read, dtype, unit.bn(), shape, *norm)
        specs.append(ConvSpec(geometry, norm if unit.batch_norm else None, unit.relu))
        t = ConvTensors(unit.weight.to(dtype), *unit.bn())
        if unit.dropout:
            noise = torch.empty(
                shape, dtype=dtype, device=x.device, memory_format=torch.channels_last
            )
            t = _with_dropout(t, unit.dropout, noise)
        tensors.append(t)
        return _validate.Planned(shape, x.device)

    for unit in call.units:
        flow = add(unit, flow)
    if isinstance(call.shortcut, ConvUnit):
        _validate.same_shape(add(call.shortcut, start).shape, flow.shape)
    elif isinstance(call.shortcut, ZeroPad):
        _validate.same_shape(call.shortcut.shape(x.shape), flow.shape)
    elif call.shortcut is not None:
        _validate.same_shape(x.shape, flow.shape)
    end = specs.pop() if isinstance(call.shortcut, ConvUnit) else call.shortcut
    entry, of_entry = (None, None) if call.entry is None else (call.entry.spec(), call.entry.bn())
    branch = BranchSpec(tuple(specs), end, call.relu, call.options, entry)
    channels_last = is_channels_last(x) or any(is_channels_last(u.weight) for u in call.units)
    x = backend.prepare(x.to(dtype))
    z = run_branch(backend, branch, BranchTensors(x, None, tensors, of_entry))
    return match_format(z, channels_last)


def _with_dropout(t: ConvTensors, p: float, noise: Tensor) -> ConvTensors:
    """With noise drawn (0 keeps an element, -inf drops it), and with gamma and beta as much larger
    as what is kept."""
    noise.bernoulli_(1 - p).log_()
    factor = 0.0 if p == 1 else 1 / (1 - p)
    gamma = t.weight.new_ones(t.weight.shape[0]) if t.gamma is None else t.gamma
    beta = None if t.beta is None else t.beta * factor
    return t._replace(gamma=gamma * factor, beta=beta, noise=noise)


def _may_widen(x: Tensor, dtype: torch.dtype, call: _Call) -> bool:
    """Whether the whole block can be computed in a wider dtype than its own: by folded inference."""
    if not is_plain(x) or x.shape[0] == 0 or call.is_preactivated or call.keeps_wider(x):
        return False
    for unit in call.convolutions:
        if unit.training or unit.folded is None:
            return False
        if not isinstance(unit.weight, Tensor) or unit.weight.dtype not in (x.dtype, dtype):
            return False  # the unit's own checks say what is wrong
        if torch.is_grad_enabled() and requires_grad(x, unit.weight, unit.gamma, unit.beta):
            return False
    return True


def _compose(
    backend: Backend,
    x: Tensor,
    call: _Call,
    donate_input: bool,
    widened_from: torch.dtype | None,
) -> Tensor:
    """Unit by unit, each a call of its own, or a whole bottleneck as one."""
    if backend.fuses_block and call.is_identity_block and is_block_launch(x, call.units):
        return bottleneck_block(x, *call.units)
    z = entered = x
    if call.entry is not None:
        z = entered = run_norm(x, call.entry, None, True, restores=False)
    for unit in call.units[:-1]:
        z = run_unit(z, unit, None, unit.relu, widened_from=widened_from, restores=False)
    return _finish(backend, z, x, entered, call, donate_input, widened_from)


def _finish(
    backend: Backend,
    z: Tensor,
    x: Tensor,
    entered: Tensor,
    call: _Call,
    donate_input: bool,
    widened_from: torch.dtype | None,
) -> Tensor:
    """The last unit, of z, and the shortcut."""
    last, shortcut = call.units[-1], call.shortcut
    run = partial(run_unit, widened_from=widened_from, restores=False)
    if shortcut is None:
        return run(z, last, None, call.relu)
    if isinstance(shortcut, ConvUnit):
        if (
            backend.fuses_projection
            and not call.is_preactivated
            and call.relu
            and last.is_pointwise
            and last.stride in (1, (1, 1))
            and shortcut.is_pointwise
        ):
            return expand_and_project(z, last, x, shortcut)
        residual = run(entered, shortcut, None, False)
        return run(z, last, residual, call.relu, donate_residual=True)
    if call.keeps_wider(x):
        wide = shortcut(x) if isinstance(shortcut, ZeroPad) else x
        z = run(z, last, None, False) + wide
        return torch.relu(z) if call.relu else z
    return run(
        z,
        last,
        x,
        call.relu,
        pad=shortcut if isinstance(shortcut, ZeroPad) else None,
        # A branch of one unit convolves the very tensor that it adds: that one must stay whole.
        donate_residual=donate_input and x is not z,
    )
