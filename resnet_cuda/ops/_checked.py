"""Calls that have been checked: what has been found of one holds for every other with its signature.

A signature is everything that the checks read: sizes, strides, dtypes and devices of all tensors, and the numbers. It
holds no tensor, and belongs to no module.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from resnet_cuda.ops import _validate
from resnet_cuda.ops._interface import ConvGeometry, accumulator_dtype
from resnet_cuda.ops._layout import is_channels_last

if TYPE_CHECKING:
    from resnet_cuda.ops._branch import ZeroPad
    from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_MOST = 4096  # signatures, 2 KB each: a network has some fifty for an input's size


class CheckedUnit(NamedTuple):
    """What follows from a valid call's signature."""

    geometry: ConvGeometry
    numbers: tuple[Any, ...]  # the same, as torch's convolutions read them fastest
    channels_last: bool  # torch's rule for the output's memory format
    pointwise: bool  # as `ConvUnit.is_pointwise`
    # Torch's own operations compute it with the tensors as they are: images, nothing to cast, copy or pad.
    as_it_is: bool


class CheckedNorm(NamedTuple):
    """The same of a batch norm's call."""

    channels_last: bool
    as_it_is: bool


class CheckedSum(NamedTuple):
    """The same of a sum's call."""

    channels_last: bool
    alike: bool  # both are dense and have the same strides: so has their sum


_Found = TypeVar("_Found")
# Where a tensor is. On the CPU, where microseconds matter, that it is there says all; a device is slower to compare.
_is_cpu, _device = attrgetter("is_cpu"), attrgetter("device")

_known_units: dict[Hashable, CheckedUnit] = {}
_known_norms: dict[Hashable, CheckedNorm] = {}
_known_sums: dict[Hashable, CheckedSum] = {}


def checked_unit(
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    pad: ZeroPad | None,
    cast_to: torch.dtype | None,
) -> CheckedUnit:
    """Checks relu?(bn(conv(x)) + residual), unless the same has been checked before.

    cast_to: the dtype to which autocast casts the weight.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`.
    """
    weight, groups = unit.weight, unit.groups
    stride, padding, dilation = unit.stride, unit.padding, unit.dilation
    signature = None
    if pad is None and _is_comparable(x, unit):
        try:
            down, across = stride if type(stride) is tuple else (stride, stride)
            top, left = padding if type(padding) is tuple else (padding, padding)
            high, wide = dilation if type(dilation) is tuple else (dilation, dilation)
            # To a dictionary True is 1, which is no stride to the checks.
            if (
                type(down) is type(across) is type(top) is type(left) is int
                and type(high) is type(wide) is type(groups) is int
            ):
                place = _is_cpu if x.is_cpu else _device
                signature = (
                    *(weight.shape, weight.stride(), weight.dtype, place(weight)),
                    *(down, across, top, left, high, wide, groups, cast_to, unit.batch_norm),
                    _tensors(x, unit, residual),
                )
            found = _known_units.get(signature)
        except _UNCOMPARABLE:
            signature = found = None
        if found is not None:
            return found
    found = _check_unit(x, unit, residual, pad, cast_to)
    return found if signature is None else _remember(_known_units, signature, found)


def checked_norm(x: Tensor, unit: NormUnit, residual: Tensor | None) -> CheckedNorm:
    """Checks relu?(bn(x) + residual), unless the same has been checked before.

    Raises:
        TypeError, ValueError: as `bn_relu`.
    """
    signature = None
    if _is_comparable(x, unit):
        try:
            signature = _tensors(x, unit, residual)
            found = _known_norms.get(signature)
        except _UNCOMPARABLE:
            signature = found = None
        if found is not None:
            return found
    found = _check_norm(x, unit, residual)
    return found if signature is None else _remember(_known_norms, signature, found)


def checked_sum(x: Tensor, residual: Tensor) -> CheckedSum:
    """Checks relu(x + residual) in the same way.

    Raises:
        TypeError, ValueError: as `add_relu`.
    """
    signature = None
    if type(x) is Tensor:
        try:
            x_form = x.shape, x.stride(), x.dtype
            form = residual.shape, residual.stride(), residual.dtype
            place = residual.is_cpu if x.is_cpu else (x.device, residual.device)
            # To compare takes less than to hash.
            signature = x_form, place, True if form == x_form else form
            found = _known_sums.get(signature)
        except _UNCOMPARABLE:
            signature = found = None
        if found is not None:
            return found
    found = check_sum(x, residual)
    # Strides of 0 are those of tensors in other layouts, too.
    if signature is None or 0 in x_form[1] or 0 in form[1]:
        return found
    return _remember(_known_sums, signature, found)


def check_sum(x: Tensor, residual: Tensor) -> CheckedSum:
    """The same each time, in a graph, too."""
    _validate.activation(x, "x")
    _validate.residual(x, residual, x.shape)
    dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
    return CheckedSum(is_channels_last(x), dense and x.stride() == residual.stride())


# What is raised for arguments of other kinds than accepted; the checks have the words for them.
_UNCOMPARABLE = (AttributeError, RuntimeError, TypeError, ValueError)


def _is_comparable(x: Tensor, norm: ConvUnit | NormUnit) -> bool:
    """Whether a signature has all that matters: the batch is this rank's, and the numbers are good."""
    return (
        type(x) in _PLAIN_TYPES
        and norm.process_group is None
        and type(norm.momentum) is float
        and type(norm.eps) is float
        and norm.eps >= 0
        and not torch.compiler.is_compiling()
    )


def _tensors(x: Tensor, norm: ConvUnit | NormUnit, residual: Tensor | None) -> tuple[Hashable, ...]:
    place = _is_cpu if x.is_cpu else _device
    training, mean, var = norm.training, norm.running_mean, norm.running_var
    return (
        *(x.shape, x.stride(), x.dtype, x.layout, place(x)),
        _vector(norm.gamma, place),
        _vector(norm.beta, place),
        _vector(mean, place),
        _vector(var, place),
        residual is None or (residual.shape, residual.dtype, residual.layout, place(residual)),
        training,
        training and mean is not None and (mean.requires_grad or var.requires_grad),  # type: ignore[union-attr]
    )


def _vector(vector: Tensor | None, place: Callable[[Tensor], Hashable]) -> Hashable:
    if vector is None:
        return None
    # Of one dimension, the size is the number of elements.
    return vector.dim(), vector.numel(), vector.dtype, vector.is_contiguous(), place(vector)


def _remember(known: dict[Hashable, _Found], signature: Hashable, found: _Found) -> _Found:
    if len(known) >= _MOST:
        known.clear()
    known[signature] = found
    return found


def _check_unit(
    x: Tensor,
    unit: ConvUnit,
    residual: Tensor | None,
    pad: ZeroPad | None,
    cast_to: torch.dtype | None,
) -> CheckedUnit:
    if not unit.batch_norm:
        return _check_bare(x, unit)
    _validate.activation(x, "x")
    geometry, norm, weight, bn = unit.geometry(), unit.spec(), unit.weight, unit.bn()
    dtype = cast_to or x.dtype
    if cast_to is None and isinstance(weight, Tensor):
        _validate.weight_dtype(weight, dtype)
    shape = _validate.convolution(x, weight, geometry)
    _validate.batch_norm(x, dtype, bn, shape, *norm)
    if residual is not None:
        if pad is None:
            _validate.residual(x, residual, shape)
        else:
            _validate.same_shape(pad.shape(residual.shape), shape)
    return CheckedUnit(
        geometry,
        _numbers(geometry),
        is_channels_last(x) or is_channels_last(weight),
        unit.is_pointwise,
        as_it_is=(
            weight.dtype == x.dtype
            and pad is None
            and geometry == geometry.of_taps(weight)
            and _are_as_they_are(x, unit)
        ),
    )


def _check_bare(x: Tensor, unit: ConvUnit) -> CheckedUnit:
    """Of conv(x)."""
    geometry, weight = unit.geometry(), unit.weight
    _validate.convolution(x, weight, geometry)
    channels_last = is_channels_last(x) or is_channels_last(weight)
    return CheckedUnit(geometry, _numbers(geometry), channels_last, unit.is_pointwise, True)


def _numbers(geometry: ConvGeometry) -> tuple[Any, ...]:
    """An int where a pair is of one number: torch reads these in less time."""
    return tuple(v[0] if isinstance(v, tuple) and v[0] == v[1] else v for v in geometry)


def _check_norm(x: Tensor, unit: NormUnit, residual: Tensor | None) -> CheckedNorm:
    _validate.activation(x, "x")
    _validate.spatial(x)
    _validate.batch_norm(x, x.dtype, unit.bn(), x.shape, *unit.spec())
    if residual is not None:
        _validate.residual(x, residual, x.shape)
    return CheckedNorm(is_channels_last(x), _are_as_they_are(x, unit))


def _are_as_they_are(x: Tensor, norm: ConvUnit | NormUnit) -> bool:
    """Whether torch's batch norm takes the vectors as they are, for a batch of this rank."""
    acc = accumulator_dtype(x.dtype)
    return (
        x.shape[0] != 0
        and norm.group() is None
        and all(v is None or (v.dtype == acc and v.is_contiguous()) for v in norm.bn())
    )
