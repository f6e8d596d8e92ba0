"""What one perfect kernel must do: floating-point operations, and every operand once, in bytes.

Masks are bits, winners of a pool one byte, per-channel vectors and statistics in the accumulator's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch

from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.layers import Elementwise, Layer, Pool, Stem
from resnet_cuda.ops._interface import accumulator_dtype
from resnet_cuda.testing.problems import ConvProblem

STATISTICS_ROWS = 64  # pixels whose statistics are one entry of the partial sums


def fprop(
    conv: ConvProblem,
    dtype: torch.dtype,
    *,
    vectors: int = 0,
    residual: bool = False,
    statistics: bool = False,
    on_load: bool = False,
) -> Part:
    """The convolution, with so many per-channel vectors, and what is added, read in the same pass; on_load: its input
    is normalised on its way in."""
    outputs = _output(conv) * (2 if residual else 1)
    size = (_read(conv) + _weight(conv) + outputs) * dtype.itemsize
    size += (vectors * conv.K + 2 * on_load * conv.C) * _accumulator(dtype)
    if statistics:
        size += partials((conv.N, conv.K, conv.P, conv.Q), dtype)
    return 2 * conv.macs, size


def stem(what: Stem, dtype: torch.dtype) -> Part:
    """Convolution, scale, shift, ReLU and max-pool in one pass: only what is pooled is written."""
    conv = what.layer.conv
    flops, size = fprop(conv, dtype, vectors=2)
    return flops, size + (prod(what.output) - _output(conv)) * dtype.itemsize


def dgrad(conv: ConvProblem, dtype: torch.dtype) -> Part:
    """The input's gradient: written whole, also where a stride skips pixels."""
    x = conv.N * conv.C * conv.H * conv.W
    return 2 * conv.macs, (x + _weight(conv) + _output(conv)) * dtype.itemsize


def wgrad(conv: ConvProblem, dtype: torch.dtype, *, on_load: bool = False) -> Part:
    """The weight's gradient."""
    size = (_read(conv) + _weight(conv) + _output(conv)) * dtype.itemsize
    return 2 * conv.macs, size + 2 * on_load * conv.C * _accumulator(dtype)


def gram(conv: ConvProblem, dtype: torch.dtype) -> Part:
    """Sums and Gram matrix in float64, half of whose elements are computed, of an input that is normalised on its way
    in."""
    rows = conv.N * conv.P * conv.Q
    size = _read(conv) * dtype.itemsize + 2 * conv.C * _accumulator(dtype)
    return rows * conv.C * (conv.C + 1), size + 8 * conv.C * (conv.C + 1)


def expand_wgrad(conv: ConvProblem, dtype: torch.dtype) -> Part:
    """The product of gradient and input, and the gradient's sums, in float64."""
    size = (_read(conv) + _output(conv)) * dtype.itemsize + 2 * conv.C * _accumulator(dtype)
    return 2 * conv.macs, size + 8 * conv.K * (conv.C + 1)


def expand_dgrad(conv: ConvProblem, dtype: torch.dtype) -> Part:
    """The input's gradient from the output's by the filters, and from the input by a square matrix."""
    matrices = _weight(conv) + conv.C * conv.C
    size = (2 * _read(conv) + _output(conv) + matrices) * dtype.itemsize
    square = conv.N * conv.P * conv.Q * conv.C * conv.C
    return 2 * (conv.macs + square), size + 3 * conv.C * _accumulator(dtype)


def closed_form(pass_name: str, conv: ConvProblem, dtype: torch.dtype) -> Part:
    """What lies between closed form's passes over pixels. Of its float64 products no dtype's ceiling tells how long
    they take: traffic alone is counted, of matrices, that of vectors is too little."""
    weight, gram = _weight(conv), 8 * conv.C * conv.C
    matrices = (2 if dtype.itemsize == 2 else 1) * conv.C * conv.C
    size = {
        "closed_form_finalize": weight * dtype.itemsize + gram,
        "closed_form_backward_reduce": weight * (dtype.itemsize + 8),
        "closed_form_backward_finalize": (3 * weight + matrices) * dtype.itemsize
        + 8 * weight
        + gram,
    }
    return 0, size[pass_name]


def expand_projection(conv: ConvProblem, projection: ConvProblem, dtype: torch.dtype) -> Part:
    """relu(bn(conv(x)) + bn(projection(input))) at inference in one pass."""
    flops, size = fprop(conv, dtype, vectors=2)
    size += (_read(projection) + _weight(projection)) * dtype.itemsize
    size += 2 * projection.K * _accumulator(dtype)
    return flops + 2 * projection.macs, size


def expand_reduce(conv: ConvProblem, reduce: ConvProblem, dtype: torch.dtype) -> Part:
    """A block's end, and the convolution behind it of what is stored and not read."""
    flops, size = fprop(conv, dtype, vectors=2, residual=True)
    size += (_weight(reduce) + _output(reduce)) * dtype.itemsize
    return flops + 2 * reduce.macs, size + 2 * reduce.K * _accumulator(dtype)


def bottleneck_block(convs: Sequence[ConvProblem], dtype: torch.dtype) -> Part:
    """A block's three convolutions: what they take and give, and nothing between."""
    first, last = convs[0], convs[-1]
    size = (_read(first) + _output(last) + sum(map(_weight, convs))) * dtype.itemsize
    vectors = 2 * sum(conv.K for conv in convs) * _accumulator(dtype)
    return sum(2 * conv.macs for conv in convs), size + vectors


def elementwise(
    shape: Sequence[int],
    dtype: torch.dtype,
    *,
    tensors: int,
    mask: bool = False,
    vectors: int = 0,
    statistics: bool = False,
) -> Part:
    """A pass that reads or writes so many activations of `shape`; arithmetic counts as none."""
    count = prod(shape)
    size = tensors * count * dtype.itemsize + vectors * shape[1] * _accumulator(dtype)
    size += (count + 7) // 8 if mask else 0
    return 0, size + (partials(shape, dtype) if statistics else 0)


def bn_apply(norm: Elementwise, dtype: torch.dtype) -> Part:
    """y -> z, with the residual read and the ReLU's mask written where there is one."""
    tensors = 3 if norm.residual else 2
    mask = norm.residual and norm.relu
    return elementwise(norm.shape, dtype, tensors=tensors, vectors=2, mask=mask)


def bn_backward_reduce(norm: Elementwise, dtype: torch.dtype) -> Part:
    """(dz, y) -> sums; the ReLU's gate is the mask where a residual was added, else recomputed from y."""
    mask, gate = _gate(norm)
    vectors = 1 + gate
    return elementwise(norm.shape, dtype, tensors=2, vectors=vectors, mask=mask, statistics=True)


def bn_backward_apply(norm: Elementwise, dtype: torch.dtype) -> Part:
    """(dz, y) -> dy, and the residual's gradient where there is one and a ReLU changes it."""
    mask, gate = _gate(norm)
    tensors = 4 if mask else 3
    return elementwise(norm.shape, dtype, tensors=tensors, vectors=4 + gate, mask=mask)


def max_pool(pool: Pool, dtype: torch.dtype, winners: bool = True) -> Part:
    """Forward or backward: image, output and the winners' places."""
    y = prod(pool.output)
    return 0, (prod(pool.shape) + y) * dtype.itemsize + (y if winners else 0)


def average_pool(pool: Pool, dtype: torch.dtype) -> Part:
    return 0, (prod(pool.shape) + prod(pool.output)) * dtype.itemsize


def bn_backward(norm: Elementwise, dtype: torch.dtype) -> list[Part]:
    return [bn_backward_reduce(norm, dtype), bn_backward_apply(norm, dtype)]


def bn_finalize(norm: Elementwise, dtype: torch.dtype) -> Part:
    """Partial sums, gamma, beta -> mean, invstd, scale, bias; the running statistics are read and written."""
    return 0, partials(norm.shape, dtype) + 10 * norm.shape[1] * _accumulator(dtype)


def bn_backward_finalize(norm: Elementwise, dtype: torch.dtype) -> Part:
    """Partial sums, gamma, mean, invstd -> dgamma, dbeta and four coefficients."""
    return 0, partials(norm.shape, dtype) + 9 * norm.shape[1] * _accumulator(dtype)


def partials(shape: Sequence[int], dtype: torch.dtype) -> int:
    """Bytes of the two sums per channel and tile of pixels of an activation."""
    return statistics_tiles(shape) * 2 * shape[1] * _accumulator(dtype)


def statistics_tiles(shape: Sequence[int]) -> int:
    return (shape[0] * shape[2] * shape[3] + STATISTICS_ROWS - 1) // STATISTICS_ROWS


def inference(layer: Layer, dtype: torch.dtype) -> list[Part]:
    """A layer at inference, its batch norm as scale and shift: one pass."""
    if layer.projection:
        return [expand_projection(layer.conv, layer.projection, dtype)]
    return [fprop(layer.conv, dtype, vectors=2 * layer.batch_norm, residual=layer.residual)]


def _gate(norm: Elementwise) -> tuple[bool, int]:
    """(whether the gate is a mask, vectors that a recomputed one takes)."""
    return norm.relu and norm.residual, 2 if norm.relu and not norm.residual else 0


def _read(conv: ConvProblem) -> int:
    """Elements of x that the convolution touches: a 1x1 of stride 2 reads every fourth pixel."""
    height, width = min(conv.H, conv.P * conv.R), min(conv.W, conv.Q * conv.S)
    return conv.N * conv.C * height * width


def _weight(conv: ConvProblem) -> int:
    return conv.K * (conv.C // conv.groups) * conv.R * conv.S


def _output(conv: ConvProblem) -> int:
    return conv.N * conv.K * conv.P * conv.Q


def _accumulator(dtype: torch.dtype) -> int:
    return accumulator_dtype(dtype).itemsize
