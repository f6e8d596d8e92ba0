"""Fake kernels: device, dtype, shape and strides of what every raw op returns, for tracing.

The raw ops, `torch.ops.resnet_cuda._*`, are one kernel pass each, without autograd. Activations
are [N, C, H, W] tensors in channels_last memory, per-channel vectors are in the accumulator's
dtype; an output that was not asked for is empty, [0].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import _raw

_STATS_TILE_ROWS = 64
_BN_COEFFICIENTS = 4


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _activation(like: Tensor, sizes: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
    return torch.empty(
        sizes,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )


def _vector(like: Tensor, *sizes: int) -> Tensor:
    return like.new_empty(sizes, dtype=_accumulator(like))


def _doubles(like: Tensor, *sizes: int) -> Tensor:
    return like.new_empty(sizes, dtype=torch.float64)


def _no_bytes(like: Tensor) -> Tensor:
    return like.new_empty((0,), dtype=torch.uint8)


def _partials(like: Tensor, shape: Sequence[int]) -> Tensor:
    """[ceil(rows / 64), 2, C] of an activation of `shape`."""
    n, c, h, w = shape
    return _vector(like, (n * h * w + _STATS_TILE_ROWS - 1) // _STATS_TILE_ROWS, 2, c)


def _bit_mask(like: Tensor, wanted: bool) -> Tensor:
    return (
        like.new_empty(((like.numel() + 7) // 8,), dtype=torch.uint8) if wanted else _no_bytes(like)
    )


def conv_output_shape(
    x: Sequence[int],
    weight: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, int, int, int]:
    """[N, C, H, W] convolved with [K, C / groups, R, S] -> [N, K, P, Q]."""
    p, q = (
        (x[2 + i] + 2 * padding[i] - dilation[i] * (weight[2 + i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    return x[0], weight[0], p, q


def _conv_fprop(
    x: Tensor,
    weight: Tensor,
    x_scale: Tensor | None,
    x_bias: Tensor | None,
    scale: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    relu: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    statistics: bool,
    *,
    x_floor: Tensor | None = None,
    residual_scale: Tensor | None = None,
    mask: bool = False,
    residual_stride: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = conv_output_shape(x.shape, weight.shape, stride, padding, dilation)
    y = _activation(x, shape)
    return y, _partials(x, shape) if statistics else _vector(x, 0), _bit_mask(y, mask)


def _conv_dgrad(
    dy: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    addend: Tensor | None,
    act: Tensor | None,
    act_scale: Tensor | None,
    act_bias: Tensor | None,
    act_mean: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    y: Tensor | None = None,
    coefficients: Tensor | None = None,
    gate_scale: Tensor | None = None,
    gate_bias: Tensor | None = None,
    addend_mask: Tensor | None = None,
    addend_stride: int = 1,
) -> tuple[Tensor, Tensor]:
    n, c, h, w = input_size
    tiles = sum(
        -(-n * _positions(h, stride[0], i) * _positions(w, stride[1], j) // _STATS_TILE_ROWS)
        for i in range(min(stride[0], h))
        for j in range(min(stride[1], w))
    )
    partials = _vector(dy, 0) if act_mean is None else _vector(dy, tiles, 2, c)
    return _activation(dy, input_size), partials


def _positions(size: int, stride: int, residue: int) -> int:
    """Those of `size` positions that lie at `residue` modulo `stride`."""
    return (size - residue + stride - 1) // stride


def _conv_wgrad(
    dy: Tensor,
    x: Tensor,
    weight_size: Sequence[int],
    x_scale: Tensor | None,
    x_bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    *,
    y: Tensor | None = None,
    coefficients: Tensor | None = None,
    gate_scale: Tensor | None = None,
    gate_bias: Tensor | None = None,
    x_floor: Tensor | None = None,
) -> Tensor:
    return _activation(x, weight_size)


def _conv_max_pool(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    n, k, p, q = conv_output_shape(x.shape, weight.shape, stride, padding, dilation)
    return _activation(x, (n, k, (p + 1) // 2, (q + 1) // 2))


def _bottleneck_reduce(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    stride: int,
    relu: bool,
    statistics: bool,
) -> tuple[Tensor, Tensor]:
    shape = conv_output_shape(x.shape, weight.shape, (stride, stride), (0, 0), (1, 1))
    return _activation(x, shape), _partials(x, shape) if statistics else _vector(x, 0)


def _bottleneck_expand(
    x: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    residual: Tensor | None,
    projection_weight: Tensor | None,
    projection_scale: Tensor | None,
    projection_bias: Tensor | None,
    projection_stride: int,
    relu: bool,
    statistics: bool,
    *,
    residual_scale: Tensor | None = None,
    mask: bool = False,
    x_scale: Tensor | None = None,
    x_bias: Tensor | None = None,
    x_floor: Tensor | None = None,
    projection_x_scale: Tensor | None = None,
    projection_x_bias: Tensor | None = None,
    projection_x_floor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    z, partials = _bottleneck_reduce(x, weight, scale, bias, 1, relu, statistics)
    return z, partials, _bit_mask(z, mask)


def _bottleneck_expand_reduce(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor,
    next_weight: Tensor,
    next_scale: Tensor,
    next_bias: Tensor,
) -> tuple[Tensor, Tensor]:
    n, _, p, q = x.shape
    y = _activation(x, (n, weight.shape[0], p, q))
    return y, _activation(x, (n, next_weight.shape[0], p, q))


def _bottleneck_block(
    x: Tensor,
    reduce_weight: Tensor,
    reduce_scale: Tensor,
    reduce_bias: Tensor,
    convolve_weight: Tensor,
    convolve_scale: Tensor,
    convolve_bias: Tensor,
    expand_weight: Tensor,
    expand_scale: Tensor,
    expand_bias: Tensor,
) -> Tensor:
    return _activation(x, x.shape)


def _bottleneck_gram(
    x: Tensor,
    x_scale: Tensor | None,
    x_bias: Tensor | None,
    x_floor: Tensor | None,
    stride: int,
) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    return _doubles(x, channels), _doubles(x, channels, channels)


def _bottleneck_expand_wgrad(
    dz: Tensor,
    mask: Tensor | None,
    x: Tensor,
    x_scale: Tensor | None,
    x_bias: Tensor | None,
    x_floor: Tensor | None,
    stride: int,
) -> tuple[Tensor, Tensor]:
    return _doubles(x, dz.shape[1], x.shape[1]), _doubles(x, dz.shape[1])


def _bottleneck_expand_dgrad(
    dz: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    x: Tensor,
    x_scale: Tensor | None,
    x_bias: Tensor | None,
    x_floor: Tensor | None,
    matrix: Tensor,
    bias: Tensor,
    stride: int,
    act_scale: Tensor | None,
    act_bias: Tensor | None,
    act_mean: Tensor | None,
) -> tuple[Tensor, Tensor]:
    shape = dz.shape[0], x.shape[1], dz.shape[2], dz.shape[3]
    return _activation(x, shape), _vector(x, 0) if act_mean is None else _partials(x, shape)


def _closed_form_finalize(
    weight: Tensor,
    sums: Tensor,
    gram: Tensor,
    shift: Tensor,
    rows: int,
    rows_of_all: Tensor | None,
    own_sums: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    k, c, *_ = weight.shape
    mean, excess = _doubles(weight, c), _doubles(weight, 0 if own_sums is None else c)
    output_mean, invstd = _doubles(weight, k), _doubles(weight, k)
    return mean, excess, output_mean, invstd, _vector(weight, k), _vector(weight, k)


def _closed_form_backward_reduce(
    weight: Tensor,
    product: Tensor,
    sums: Tensor,
    mean: Tensor,
    excess: Tensor | None,
    invstd: Tensor,
) -> tuple[Tensor, Tensor]:
    k = weight.shape[0]
    return _doubles(weight, k), _doubles(weight, 0 if excess is None else k)


def _closed_form_backward_finalize(
    weight: Tensor,
    product: Tensor,
    sums: Tensor,
    gram: Tensor,
    mean: Tensor,
    excess: Tensor | None,
    moments: Tensor | None,
    shift: Tensor,
    invstd: Tensor,
    gamma: Tensor | None,
    dgamma_of_all: Tensor,
    sums_of_all: Tensor,
    rows: int,
    rows_of_all: Tensor | None,
    weight_grad: bool,
    input_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    k, c, *_ = weight.shape
    dweight = _activation(weight, weight.shape) if weight_grad else weight.new_empty((0,))
    if not input_grad:
        return dweight, weight.new_empty((0,)), weight.new_empty((0,)), _vector(weight, 0)
    matrices = 2 if weight.dtype.itemsize == 2 else 1
    return (
        dweight,
        weight.new_empty((k, c)),
        weight.new_empty((matrices * c, c)),
        _vector(weight, c),
    )


def _bn_statistics(y: Tensor) -> Tensor:
    return _partials(y, y.shape)


def _bn_finalize(
    partials: Tensor,
    rows: int,
    gamma: Tensor | None,
    beta: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mean, invstd, scale, bias = (_vector(partials, partials.shape[2]) for _ in range(4))
    return mean, invstd, scale, bias


def _bn_apply(
    y: Tensor,
    scale: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    relu: bool,
    mask: bool,
    *,
    residual_scale: Tensor | None = None,
    residual_stride: int = 1,
) -> tuple[Tensor, Tensor]:
    return _activation(y, y.shape), _bit_mask(y, mask)


def _bn_backward_reduce(
    dz: Tensor,
    y: Tensor,
    mean: Tensor,
    mask: Tensor | None,
    gate_scale: Tensor | None,
    gate_bias: Tensor | None,
) -> Tensor:
    return _partials(y, y.shape)


def _bn_backward_finalize(
    partials: Tensor,
    rows: int,
    gamma: Tensor | None,
    mean: Tensor,
    invstd: Tensor,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = mean.shape[0]
    return (
        _vector(mean, channels),
        _vector(mean, channels),
        _vector(mean, _BN_COEFFICIENTS, channels),
    )


def _bn_backward_apply(
    dz: Tensor,
    y: Tensor,
    mask: Tensor | None,
    gate_scale: Tensor | None,
    gate_bias: Tensor | None,
    coefficients: Tensor,
    residual_grad: bool,
    *,
    addend: Tensor | None = None,
    addend_stride: int = 1,
) -> tuple[Tensor, Tensor]:
    dresidual = _activation(y, y.shape) if residual_grad else y.new_empty((0,))
    return _activation(y, y.shape), dresidual


def _add_relu_forward(x: Tensor, residual: Tensor, mask: bool) -> tuple[Tensor, Tensor]:
    return _activation(x, x.shape), _bit_mask(x, mask)


def _add_relu_backward(dz: Tensor, mask: Tensor) -> Tensor:
    return _activation(dz, dz.shape)


def _max_pool_forward(
    x: Tensor, kernel: int, stride: int, padding: int, argmax: bool
) -> tuple[Tensor, Tensor]:
    n, c, h, w = x.shape
    shape = (
        n,
        c,
        (h + 2 * padding - kernel) // stride + 1,
        (w + 2 * padding - kernel) // stride + 1,
    )
    return _activation(x, shape), _activation(x, shape, torch.uint8) if argmax else _no_bytes(x)


def _max_pool_backward(
    dy: Tensor, argmax: Tensor, input_size: Sequence[int], kernel: int, stride: int, padding: int
) -> Tensor:
    return _activation(dy, input_size)


def _global_avg_pool_forward(x: Tensor) -> Tensor:
    return _activation(x, (x.shape[0], x.shape[1], 1, 1))


def _global_avg_pool_backward(dy: Tensor, input_size: Sequence[int]) -> Tensor:
    return _activation(dy, input_size)


FAKES: tuple[Callable[..., Any], ...] = (
    _conv_fprop,
    _conv_dgrad,
    _conv_wgrad,
    _conv_max_pool,
    _bottleneck_reduce,
    _bottleneck_expand,
    _bottleneck_expand_reduce,
    _bottleneck_block,
    _bottleneck_gram,
    _bottleneck_expand_wgrad,
    _bottleneck_expand_dgrad,
    _closed_form_finalize,
    _closed_form_backward_reduce,
    _closed_form_backward_finalize,
    _bn_statistics,
    _bn_finalize,
    _bn_apply,
    _bn_backward_reduce,
    _bn_backward_finalize,
    _bn_backward_apply,
    _add_relu_forward,
    _add_relu_backward,
    _max_pool_forward,
    _max_pool_backward,
    _global_avg_pool_forward,
    _global_avg_pool_backward,
)


def _refusing(fake: Callable[..., Any]) -> Callable[..., Any]:
    """The fake kernel, with an error for what the op itself would refuse by name: too few dimensions, a stride of 0."""

    @wraps(fake)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return fake(*args, **kwargs)
        except (ArithmeticError, LookupError) as error:
            raise ValueError(
                f"resnet_cuda::{fake.__name__}: shapes or geometry are not as this op takes them ({error})"
            ) from error

    return run


_FAKE = {f"resnet_cuda::{fake.__name__}": _refusing(fake) for fake in FAKES}
if _raw.is_built():
    _raw.require_ops(fake.__name__ for fake in FAKES)
    for _name, _fake in _FAKE.items():
        torch.library.register_fake(_name, _fake)


class _NoPixels(TorchDispatchMode):
    """A pass over no pixels launches nothing, and all that it sums is zero."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = (*args, *kwargs.values())
        if func.namespace != "resnet_cuda" or all(
            value.numel() for value in given if isinstance(value, Tensor)
        ):
            return func(*args, **kwargs)
        results = _FAKE[func._schema.name](*args, **kwargs)
        for result in (results,) if isinstance(results, Tensor) else results:
            result.zero_()
        return results


def no_pixels(x: Tensor) -> AbstractContextManager[Any]:
    """Where x [N, C, H, W] is an empty batch: lets our passes take it, which the kernels do not."""
    return _NoPixels() if x.shape[0] == 0 else nullcontext()
