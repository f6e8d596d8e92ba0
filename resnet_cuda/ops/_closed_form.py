"""Batch norm after a 1x1 convolution in closed form: its statistics follow from what the convolution
reads, so that its output is never stored.

For rows A [M, C] and y = A W' (W [K, C]) the mean of y is W mean(A), and its variance diag(W cov(A)
W'). So one pass over A for its Gram matrix gives batch norm's scale and bias BEFORE the convolution,
which then normalises, adds and activates in its epilogue. The backward needs no y either: with the
gradient dU of bn(y), P = dU' A and the column sums of dU give every parameter's gradient, and A's is
[dU | A] [B1; B2] + c with B1 = diag(s1) W, B2 = W' diag(s2) W.

Over all ranks of a process group the sums are those of all rows: the mean m, the covariance, and in the
backward sum(u) and sum(u (y - mean(y))) of each filter, which make s2 and

    dy = s1 u + s2 W (a - m) - s3        s1 = gamma invstd, s3 = s1 sum(u) / M

the gradient of y at any row. A rank's gradient of W is the sum of dy a' over its own rows: with P and
the covariance about m summed over these, s1 P + s2 W Cov - s3 e' + d (m + shift)', where e = sum(a - m)
and d = sum(dy) = s1 sum(u) + s2 W e - M_rank s3 are zero where there is one rank. It is what autograd
would give the rank; the ranks' sum is the gradient of W.

A is shifted on load by a number per channel near its mean, so that large means do not cancel; what lies
between the passes over pixels is computed in float64, from the operands as they were rounded, by
kernels of its own (csrc/kernels/closed_form).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from resnet_cuda.ops import _synchronised
from resnet_cuda.ops._branch import (
    ConvGradients,
    ConvNeeds,
    ConvSpec,
    ConvTensors,
    is_pixelwise,
)
from resnet_cuda.ops._interface import accumulator_dtype, cast_vector
from resnet_cuda.ops._kernel_norms import cast_vectors, keep_running
from resnet_cuda.ops._kernel_passes import OPEN, PIECE, Behind, Convolved, Input, Operand
from resnet_cuda.ops._layout import as_channels_last

_ops = torch.ops.resnet_cuda
_SAMPLED_ROWS = 256  # of an input whose mean is not known
_LARGE_MEAN = 64.0  # mean^2 / variance from which an input is shifted
# Rows for each channel from which it is chosen. Its float64 matrices, of C x C and K x C elements, are as large at
# any batch. Counted on a bottleneck's training step, all is as many bytes as with a stored output at 3 rows for each
# channel, 0.75 times as many at 12; what the float64 products take is not counted, and was not measured.
ROWS_PER_CHANNEL = 12


class Expanded(NamedTuple):
    """What is kept of a convolution whose output is not stored; float64 but the shift.

    mean [C] is of the shifted operand, output_mean and invstd [K] of the output, shift [C] is what was
    subtracted. gram [C, C] and excess [C] are sums over this rank's rows, of products and of distances
    from that mean: excess is zero, and not kept, unless other ranks have part in the mean.
    """

    mean: Tensor
    gram: Tensor
    output_mean: Tensor
    invstd: Tensor
    shift: Tensor
    excess: Tensor


class Affine(NamedTuple):
    """bn(y) = (At W') scale + bias, for the shifted operand At."""

    scale: Tensor
    bias: Tensor


def obstacle(spec: ConvSpec, t: ConvTensors, rows: int, wanted: bool | None) -> str | None:
    """Why this convolution's batch norm is not had in closed form; None where it is.

    By itself (`wanted` None) it is for 16-bit operands: there the Gram matrix, summed in float32, is
    far more precise than the operands. float32's would not be. And for as many rows as make it pay; a
    group's ranks, which must all decide alike, do not know each other's.
    """
    filters, channels, *_ = t.weight.shape
    if spec.norm is None:
        return "no batch norm"
    if not spec.norm.training:
        return "running statistics"
    if not is_pixelwise(spec, t):
        return "its filters are not 1x1 without padding and groups, with equal strides"
    if filters % PIECE or channels % PIECE:
        return f"{channels} channels and {filters} filters, not multiples of {PIECE}"
    if wanted is None and t.weight.dtype.itemsize != 2:
        dtype = str(t.weight.dtype).removeprefix("torch.")
        return f"{dtype} is more precise than sums of squares in float32"
    if wanted is None and spec.norm.process_group is None and rows < ROWS_PER_CHANNEL * channels:
        return f"{rows} pixels for {channels} channels: too few for float64 matrices of any batch's size"
    return "switched off" if wanted is False else None


def shift_of_activation(beta: Tensor | None, like: Tensor, dtype: torch.dtype) -> Tensor:
    """relu(beta) [C], rounded as the operand is: |relu(bn(y)) - relu(beta)| <= |bn(y) - beta|, so the
    shifted activation's second moment is at most gamma^2."""
    if beta is None:
        return torch.zeros_like(like)
    return beta.clamp_min(0).to(dtype).to(like.dtype)


def shift_of_input(x: Tensor, stride: int, group: ProcessGroup | None) -> Tensor:
    """The mean [C] of some rows of x, of every rank, rounded as x is, where it is large beside their
    deviation; else 0."""
    n, _, h, w = x[:, :, ::stride, ::stride].shape
    row = torch.arange(0, n * h * w, max(1, n * h * w // _SAMPLED_ROWS), device=x.device)
    rows = x[row // (h * w), :, row // w % h * stride, row % w * stride]
    rows = rows.to(accumulator_dtype(x.dtype))
    if group is None:
        var, mean = torch.var_mean(rows, dim=0, correction=0)
    else:
        sampled = _synchronised.of_values(rows, group)
        mean, var = sampled.mean.to(rows.dtype), sampled.var.to(rows.dtype)
    shift = mean.to(x.dtype).to(mean.dtype)
    return torch.where(mean.square() > _LARGE_MEAN * var, shift, torch.zeros_like(shift))


def shifted_activation(c: Convolved, shift: Tensor) -> Operand:
    """relu(bn(y)) - shift = max(y scale + (bias - shift), -shift), on load."""
    return Operand(c.y, c.scale, c.bias - shift, -shift)


def shifted_input(x: Tensor, shift: Tensor) -> Operand:
    """x - shift, on load."""
    return Operand(x, torch.ones_like(shift), -shift, torch.full_like(shift, -torch.inf))


def forward(
    read: Operand, shift: Tensor, spec: ConvSpec, t: ConvTensors
) -> tuple[Expanded, Affine]:
    """The batch norm's numbers of a convolution that has yet to run; the running ones move.

    Reads the operand; writes its sums and Gram matrix.
    """
    assert spec.norm is not None
    stride = spec.geometry.stride[0]
    sums, gram = _ops._bottleneck_gram.default(*read, stride)
    rows = _rows(read.tensor, stride)
    group = spec.norm.process_group
    (of_all, gram_of_all), rows_of_all = _synchronised.over_batch(group, rows, sums, gram)
    vectors = cast_vectors(t.bn, accumulator_dtype(t.weight.dtype))
    # Reads these; multiplies in float64.
    mean, excess, output_mean, invstd, *affine = _ops._closed_form_finalize.default(
        *(as_channels_last(t.weight), of_all, gram_of_all, shift, rows),
        *((None, None) if group is None else (rows_of_all, sums)),
        *(*vectors, spec.norm.momentum, spec.norm.eps),
    )
    keep_running(t.bn, vectors)
    return Expanded(mean, gram, output_mean, invstd, shift, excess), Affine(*affine)


def backward(
    behind: Behind,
    e: Expanded,
    spec: ConvSpec,
    t: ConvTensors,
    needed: ConvNeeds,
    read: Input,
    wants_input: bool,
) -> tuple[ConvGradients, Behind | None]:
    """The gradients of bn(conv(read)), and of what was read, behind the ReLU before it."""
    if not (any(needed) or wants_input):
        return ConvGradients(), None
    assert spec.norm is not None
    x, *affine = read.operand
    stride = spec.geometry.stride[0]
    g, mask = behind.g, behind.gate.mask
    # Reads g, its bits and the operand; writes their product and the sums of g.
    product, sums = _ops._bottleneck_expand_wgrad.default(g, mask, x, *affine, stride)
    gradients = ConvGradients(beta=sums if needed.beta else None)
    if not (needed.weight or needed.gamma or wants_input):
        return gradients, None
    group = spec.norm.process_group
    alone = group is None
    weight = as_channels_last(t.weight)
    # Reads the product.
    dgamma, moments = _ops._closed_form_backward_reduce.default(
        weight, product, sums, e.mean, None if alone else e.excess, e.invstd
    )
    gradients = gradients._replace(gamma=dgamma if needed.gamma else None)
    if not (needed.weight or wants_input):
        return gradients, None
    rows = _rows(x, stride)
    of_all, rows_of_all = _synchronised.over_batch(group, rows, dgamma, sums)
    # Reads the product and the Gram matrix, multiplies in float64; writes dweight and the matrices.
    dweight, of_gradient, of_operand, constant = _ops._closed_form_backward_finalize.default(
        *(weight, product, sums, e.gram, e.mean),
        *((None, None) if alone else (e.excess, moments)),
        *(e.shift, e.invstd, cast_vector(t.gamma, accumulator_dtype(t.weight.dtype)), *of_all),
        *(rows, None if alone else rows_of_all, needed.weight, wants_input),
    )
    gradients = gradients._replace(weight=dweight if needed.weight else None)
    if not wants_input:
        return gradients, None
    # Reads g, its bits, the operand and the matrices; writes the gradient, and sums.
    dx, partials = _ops._bottleneck_expand_dgrad.default(
        *(g, mask, of_gradient, x, *affine, of_operand),
        *(constant, stride, *read.gate()),
    )
    return gradients, Behind(dx, OPEN, partials if read.sums else None)


def _rows(x: Tensor, stride: int) -> int:
    n, _, h, w = x.shape
    return n * ((h - 1) // stride + 1) * ((w - 1) // stride + 1)
