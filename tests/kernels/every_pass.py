"""Every kernel pass once, on a small problem with every optional input: for tests that care about how kernels run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from resnet_cuda import _selection  # also registers the raw ops
from tests.kernels.passes import Conv, nhwc, vector

raw = torch.ops.resnet_cuda

CONV = Conv(2, 20, 9, 7, 70, stride=(2, 1), padding=(1, 1))
SPLIT = Conv(1, 3, 40, 33, 5)


def normal(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nhwc(torch.randn(*size, generator=g, dtype=torch.float64).to(dtype))


def every_pass(
    dtype: torch.dtype,
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, ...] | Tensor]]]:
    """Each kernel family once, with every optional input present somewhere."""
    x, weight, dy = CONV.random(dtype)
    channels = [vector(CONV.c, dtype, seed) for seed in range(3)]
    filters = [vector(CONV.k, dtype, seed, 0.1, 1.0) for seed in range(4)]
    none6 = (None, None, None, None, None, False)
    yield (
        "fprop",
        lambda: raw._conv_fprop(
            x, weight, *channels[:2], *filters[:2], dy, True, *CONV.geometry, False
        ),
    )
    yield "fprop_stats", lambda: raw._conv_fprop(x, weight, *none6, *CONV.geometry, True)
    yield (
        "dgrad",
        lambda: raw._conv_dgrad(dy, weight, list(x.shape), x, x, *channels, *CONV.geometry),
    )
    sx, sw, sdy = SPLIT.random(dtype)
    on_load = [vector(3, dtype, 1), vector(3, dtype, 2)]
    yield "wgrad", lambda: raw._conv_wgrad(sdy, sx, list(sw.shape), *on_load, *SPLIT.geometry)
    pixels, p_weight = normal(2, 20, 6, 6, dtype=dtype), normal(24, 20, 1, 1, dtype=dtype)
    short, s_weight = normal(2, 7, 12, 12, dtype=dtype), normal(24, 7, 1, 1, dtype=dtype)
    expand = [vector(24, dtype, seed) for seed in range(4)]
    yield "reduce", lambda: raw._bottleneck_reduce(pixels, p_weight, *expand[:2], 2, True, False)
    yield (
        "expand",
        lambda: raw._bottleneck_expand(
            pixels, p_weight, *expand[:2], short, s_weight, *expand[2:], 2, True, False
        ),
    )
    yield from closed_form(dtype)
    y = normal(3, 35, 9, 7, dtype=dtype)
    stats = [vector(35, dtype, seed) for seed in range(2)]

    def batch_norm() -> tuple[Tensor, ...]:
        mean, invstd, scale, bias = raw._bn_finalize(
            raw._bn_statistics(y), 189, *stats, stats[0].clone(), stats[1].clone(), 0.1, 1e-5
        )
        z, mask = raw._bn_apply(y, scale, bias, y, True, True)
        partials = raw._bn_backward_reduce(z, y, mean, mask, None, None)
        dgamma, dbeta, c = raw._bn_backward_finalize(partials, 189, stats[0], mean, invstd, True)
        dx, _ = raw._bn_backward_apply(z, y, mask, None, None, c, False, addend=y)
        both = raw._bn_backward_apply(z, y, mask, None, None, c, True)
        return (z, mask, dgamma, dbeta, dx, *both)

    yield "batch_norm", batch_norm

    def add_relu() -> tuple[Tensor, ...]:
        z, mask = raw._add_relu_forward(
            y, y.flip(0).contiguous(memory_format=torch.channels_last), True
        )
        return z, mask, raw._add_relu_backward(z, mask)

    yield "add_relu", add_relu

    def pools() -> tuple[Tensor, ...]:
        z, argmax = raw._max_pool_forward(y, 3, 2, 1, True)
        mean = raw._global_avg_pool_forward(y)
        return (
            z,
            raw._max_pool_backward(z, argmax, list(y.shape), 3, 2, 1),
            mean,
            raw._global_avg_pool_backward(mean, list(y.shape)),
        )

    yield "pools", pools
    if dtype.itemsize == 2 and not _selection.has_tensor_cores(y.device):
        return  # such stems pool on tensor cores, in the convolution, or in a pass of their own
    images, s_filters = normal(1, 3, 20, 34, dtype=dtype), normal(12, 3, 7, 7, dtype=dtype)
    yield (
        "stem",
        lambda: raw._conv_max_pool(
            images, s_filters, vector(12, dtype, 1), vector(12, dtype, 2), [2, 2], [3, 3], [1, 1], 1
        ),
    )


def closed_form(
    dtype: torch.dtype,
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, ...] | Tensor]]]:
    """Batch norm behind a pointwise convolution; 16 and 40 channels are cut off from each tile."""
    x, dz = normal(2, 16, 9, 8, dtype=dtype), normal(2, 40, 9, 8, dtype=dtype)
    vectors = [vector(16, dtype, seed) for seed in range(3)]
    weight, matrix = normal(40, 16, 1, 1, dtype=dtype), normal(16, 16, 1, 1, dtype=dtype)
    bits = torch.arange(dz.numel() // 8).to(torch.uint8)
    yield "gram", lambda: raw._bottleneck_gram(x, *vectors, 2)
    yield (
        "expand_wgrad",
        lambda: raw._bottleneck_expand_wgrad(dz, bits, x, *vectors, 1),
    )
    filters = [t.flatten(1).contiguous() for t in (weight, matrix)]
    yield (
        "expand_dgrad",
        lambda: raw._bottleneck_expand_dgrad(
            dz, bits, filters[0], x, *vectors, filters[1], vectors[0], 1, *vectors
        ),
    )
    by_channel, by_filter = vector(16, torch.float64, 1), vector(40, torch.float64, 2)
    gram, product = (vector(n * 16, torch.float64, 3).view(n, 16) for n in (16, 40))
    affine = [vector(40, dtype, seed) for seed in range(4)]
    count = torch.tensor(300.0, dtype=torch.float64)
    yield (
        "closed_form_finalize",
        lambda: raw._closed_form_finalize(
            *(weight, by_channel, gram @ gram.T, vectors[0], 144, count, by_channel),
            *(*affine[:2], *(t.clone() for t in affine[2:]), 0.1, 1e-5),
        ),
    )
    yield (
        "closed_form_backward_reduce",
        lambda: raw._closed_form_backward_reduce(
            weight, product, by_filter, by_channel, by_channel, by_filter
        ),
    )
    yield (
        "closed_form_backward_finalize",
        lambda: raw._closed_form_backward_finalize(
            *(weight, product, by_filter, gram, by_channel, by_channel, by_filter),
            *(vectors[0], by_filter, affine[0], by_filter, by_filter, 144, count, True, True),
        ),
    )


def outputs(run: Callable[[], tuple[Tensor, ...] | Tensor]) -> tuple[Tensor, ...]:
    result = run()
    return result if isinstance(result, (tuple, list)) else (result,)
