"""Argument checks of the ops, once. Every error names the argument, what it was and what is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops._interface import BatchNormTensors, ConvGeometry, Pair

ACTIVATION_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_LOW_PRECISION = (torch.bfloat16, torch.float16)


def pair(value: Any, name: str, least: int) -> Pair:
    """An int or a pair of ints, each at least `least`."""
    if type(value) is tuple and len(value) == 2:  # the usual case, quickly
        first, second = value
        if type(first) is int and type(second) is int and first >= least and second >= least:
            return value
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; accepted: an int or two ints")
    if isinstance(value, (int, torch.SymInt)):
        first = second = value
    elif isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2:
        first, second = value
        if not all(
            isinstance(v, (int, torch.SymInt)) and not isinstance(v, bool) for v in (first, second)
        ):
            raise TypeError(f"{name} is {value!r}; accepted: an int or two ints")
    else:
        raise TypeError(f"{name} is {value!r}; accepted: an int or two ints")
    if first < least or second < least:
        raise ValueError(f"{name} is {value!r}; accepted: integers of at least {least}")
    return first, second


def geometry(stride: Any, padding: Any, dilation: Any, groups: Any) -> ConvGeometry:
    if type(stride) is type(padding) is type(dilation) is type(groups) is int:  # quickly
        if stride > 0 and padding >= 0 and dilation > 0 and groups > 0:
            return ConvGeometry((stride, stride), (padding, padding), (dilation, dilation), groups)
    if not isinstance(groups, int) or isinstance(groups, bool):
        raise TypeError(f"groups is {groups!r}; accepted: an int")
    if groups < 1:
        raise ValueError(f"groups is {groups}; accepted: integers of at least 1")
    return ConvGeometry(
        pair(stride, "stride", 1),
        pair(padding, "padding", 0),
        pair(dilation, "dilation", 1),
        groups,
    )


def activation(x: Tensor, name: str) -> None:
    """A dense 4-D floating-point tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a {type(x).__name__}; accepted: a 4-D Tensor [N, C, H, W]")
    if x.dtype not in ACTIVATION_DTYPES:
        raise TypeError(
            f"{name} has dtype {x.dtype}; accepted: float64, float32, bfloat16, float16"
        )
    if x.layout != torch.strided:
        raise TypeError(f"{name} has layout {x.layout}; accepted: a dense (strided) tensor")
    if x.dim() != 4:
        raise ValueError(f"{name} has shape {list(x.shape)}; accepted: 4 dimensions [N, C, H, W]")


class Planned(NamedTuple):
    """What checks want to know of an activation that is yet to be computed."""

    shape: Sequence[int]
    device: torch.device


def spatial(x: Tensor | Planned) -> None:
    if x.shape[1] == 0 or x.shape[2] == 0 or x.shape[3] == 0:
        raise ValueError(
            f"x has shape {list(x.shape)}; accepted: C, H and W of at least 1 (N may be 0)"
        )


def _same_device(tensor: Tensor, name: str, x: Tensor | Planned) -> None:
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device}, x is on {x.device}; accepted: one device")


def convolution(x: Tensor | Planned, weight: Tensor, g: ConvGeometry) -> tuple[int, int, int, int]:
    """Checks x [N, C, H, W] against weight [K, C / groups, R, S]; returns the output's shape [N, K, P, Q]."""
    if not isinstance(weight, Tensor):
        raise TypeError(
            f"weight is a {type(weight).__name__}; accepted: a Tensor [K, C / groups, R, S]"
        )
    if weight.dim() != 4:
        raise ValueError(
            f"weight has shape {list(weight.shape)}; accepted: 4 dimensions [K, C / groups, R, S]"
        )
    _same_device(weight, "weight", x)
    n, c, h, w = x.shape
    spatial(x)
    k, per_group, r, s = weight.shape
    groups = g.groups
    if c % groups or k % groups:
        raise ValueError(
            f"groups is {groups}, x has {c} channels and weight {k} filters; accepted: groups that divide both"
        )
    if k == 0 or r == 0 or s == 0:
        raise ValueError(f"weight has shape {list(weight.shape)}; accepted: no size of 0")
    if per_group * groups != c:
        raise ValueError(
            f"weight has shape {list(weight.shape)} and groups is {groups}: it takes {per_group * groups} channels, "
            f"x has {c}; accepted: weight [K, {c // groups}, R, S]"
        )
    p = (h + 2 * g.padding[0] - g.dilation[0] * (r - 1) - 1) // g.stride[0] + 1
    q = (w + 2 * g.padding[1] - g.dilation[1] * (s - 1) - 1) // g.stride[1] + 1
    if p < 1 or q < 1:
        raise ValueError(
            f"x has {h} x {w} pixels, weight {r} x {s} with padding {g.padding} and dilation {g.dilation}: the output "
            f"would have {p} x {q}; accepted: an image at least as large as the dilated kernel"
        )
    return n, k, p, q


def weight_dtype(weight: Tensor, dtype: torch.dtype) -> None:
    if weight.dtype != dtype:
        raise TypeError(
            f"weight has dtype {weight.dtype}, x has {dtype}; accepted: the same dtype (or torch.autocast)"
        )


def batch_norm(
    x: Tensor | Planned,
    dtype: torch.dtype,
    bn: BatchNormTensors,
    shape: Sequence[int],
    training: bool,
    momentum: Any,
    eps: Any,
    process_group: Any = None,
) -> None:
    """Checks the per-channel tensors [K] of a batch norm over an input of `shape` [N, K, P, Q] in
    `dtype` on x's device."""
    size, device = (shape[1],), x.device
    for vector in bn:
        if vector is not None and not (
            isinstance(vector, Tensor)
            and vector.dtype is dtype
            and vector.shape == size
            and vector.device == device
        ):
            _vectors(x, dtype, bn, shape[1])
            break
    mean, var = bn.running_mean, bn.running_var
    if (mean is None) != (var is None):
        missing = "running_mean" if mean is None else "running_var"
        raise ValueError(f"{missing} is None and the other is not; accepted: both or neither")
    if type(momentum) is not float and not _is_number(momentum):
        raise TypeError(
            f"momentum is {momentum!r}; accepted: a float (the cumulative average of momentum=None is the module's)"
        )
    if type(eps) is not float and not _is_number(eps):
        raise TypeError(f"eps is {eps!r}; accepted: a float")
    if eps < 0:
        raise ValueError(f"eps is {eps}; accepted: a float of at least 0")
    if training:
        if shape[0] * shape[2] * shape[3] == 1 and process_group is None:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {torch.Size(shape)}"
            )
        if mean is not None and (mean.requires_grad or var.requires_grad):  # type: ignore[union-attr]
            raise ValueError(
                "running_mean or running_var requires grad; accepted: buffers without grad, because training updates "
                "them in place"
            )
    elif mean is None:
        raise ValueError(
            "running_mean and running_var are None with training=False; accepted: tensors [K]"
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _vectors(x: Tensor | Planned, dtype: torch.dtype, bn: BatchNormTensors, channels: int) -> None:
    """Names what is wrong with a vector; float32 ones beside a lower precision are right."""
    for name, vector in zip(bn._fields, bn, strict=True):
        if vector is None:
            continue
        if not isinstance(vector, Tensor):
            raise TypeError(f"{name} is a {type(vector).__name__}; accepted: a Tensor [K] or None")
        if vector.dim() != 1 or vector.shape[0] != channels:
            raise ValueError(
                f"{name} has shape {list(vector.shape)}; accepted: [{channels}], one value per output channel"
            )
        if vector.dtype != dtype and not (
            vector.dtype == torch.float32 and dtype in _LOW_PRECISION
        ):
            also = " or float32" if dtype in _LOW_PRECISION else ""
            raise TypeError(
                f"{name} has dtype {vector.dtype}, x has {dtype}; accepted: {dtype}{also}"
            )
        _same_device(vector, name, x)


def residual(x: Tensor, tensor: Tensor, shape: Sequence[int], name: str = "residual") -> None:
    """A tensor that is added to an output of `shape`: no broadcasting."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}; accepted: a Tensor or None")
    if tensor.shape != shape:
        same_shape(tensor.shape, shape, name)
    if tensor.dtype != x.dtype:
        raise TypeError(
            f"{name} has dtype {tensor.dtype}, x has {x.dtype}; accepted: the same dtype"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}; accepted: a dense (strided) tensor")
    _same_device(tensor, name, x)


def same_shape(shape: Sequence[int], output: Sequence[int], name: str = "residual") -> None:
    """Nothing is broadcast over the output."""
    if tuple(shape) != tuple(output):
        raise ValueError(f"{name} has shape {list(shape)}; accepted: {list(output)}, the output's")


def pointwise_weight(weight: Tensor) -> None:
    if isinstance(weight, Tensor) and weight.shape[2:] != (1, 1):
        raise ValueError(f"weight has shape {list(weight.shape)}; accepted: [K, C, 1, 1]")
