"""oneDNN's convolution + add + ReLU in one call, for CPU inference on folded weights.

Its fused ReLU turns NaN into 0, torch's keeps it. So the ReLU is a pass of its own, in place on
the output, except where a cheaper look at the inputs shows that there is no NaN to lose.
"""

from __future__ import annotations

import functools
import math
import platform
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops._interface import ConvGeometry
from resnet_cuda.ops._layout import as_channels_last, is_channels_last

_LEAST_PRODUCTS = 4_000_000


def pays(
    shape: tuple[int, ...], weight: Tensor, geometry: ConvGeometry, dtype: torch.dtype
) -> bool:
    """Whether oneDNN's call is faster than torch's own for an input of `shape`.

    It takes 20 us more before it begins, which a small float32 image does not win back: torch itself
    multiplies one such image without oneDNN. Measured on one core, from 8 to 256 channels, 1x1 and
    3x3: the same at some 5 million products.
    """
    n, _, h, w = shape
    if n > 1 or dtype != torch.float32 or weight.shape[2] > 3 or weight.shape[3] > 3:
        return True
    down, across = geometry.stride
    return weight.numel() * h * w >= _LEAST_PRODUCTS * down * across


class FoldedWeights(NamedTuple):
    """A convolution's weight and bias with the batch norm in them."""

    weight: Tensor  # [K, C / groups, R, S], in oneDNN's own layout where packed
    bias: Tensor  # [K]
    wide_bias: Tensor  # [K] in the accumulator's dtype: oneDNN takes it where nothing is added
    packed: bool
    channels_last: bool  # the weight's memory format
    finite: bool


def fold_weights(
    weight: Tensor, bias: Tensor, geometry: ConvGeometry, shape: tuple[int, ...]
) -> FoldedWeights:
    """Packs a folded weight and its accumulator-wide bias for inputs of `shape`; () leaves the
    weight as it is."""
    finite = bool(weight.isfinite().all() and bias.isfinite().all())
    channels_last = is_channels_last(weight)
    packed = weight
    if shape:
        g = geometry
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, g.padding, g.stride, g.dilation, g.groups, shape
        )
    return FoldedWeights(packed, bias.to(weight.dtype), bias, bool(shape), channels_last, finite)


def fused_convolution(
    x: Tensor,
    weights: FoldedWeights,
    geometry: ConvGeometry,
    residual: Tensor | None,
    relu: bool,
    donate_residual: bool,
) -> Tensor:
    """relu?(conv(x, weight) + bias + residual) in as few passes as possible; a donated residual is
    overwritten."""
    g = geometry
    if not weights.packed:
        z = torch.conv2d(x, weights.weight, weights.bias, *g)
        if residual is not None:
            z.add_(residual)
        return z.relu_() if relu else z
    channels_last = weights.channels_last or is_channels_last(x)
    x = as_channels_last(x) if channels_last else x.contiguous()
    if residual is None:
        fuse = relu and weights.finite and _is_surely_finite(x)
        z = _convolve(x, weights, g, "relu" if fuse else "none")
    elif channels_last:
        fuse = relu and weights.finite and _is_surely_finite(x) and _is_surely_finite(residual)
        z = as_channels_last(residual)
        if z is residual and not (donate_residual and _may_be_written(residual)):
            z = residual.clone()
        z = _convolve_into(z, x, weights, g, "relu" if fuse else None)
    else:
        fuse = False
        z = _convolve(x, weights, g, "none").add_(residual)
    return z.relu_() if relu and not fuse else z


def _convolve(x: Tensor, weights: FoldedWeights, g: ConvGeometry, activation: str) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise.default(
        x,
        weights.weight,
        weights.wide_bias,
        g.padding,
        g.stride,
        g.dilation,
        g.groups,
        activation,
        [],
        "",
    )


def _convolve_into(
    z: Tensor, x: Tensor, weights: FoldedWeights, g: ConvGeometry, activation: str | None
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        z,
        x,
        weights.weight,
        weights.bias,
        g.padding,
        g.stride,
        g.dilation,
        g.groups,
        "add",
        1.0,
        activation,
        [],
        None,
    )


def _is_surely_finite(x: Tensor) -> bool:
    """Whether x has no NaN and no infinity; a False may be wrong. Only asked where it is cheaper
    than a ReLU pass.

    Measured on one core: a bfloat16 tensor is summed at 8.6 elements per ns and its ReLU runs at
    3.7; float32 2.6 and 2.6.
    """
    return x.dtype == torch.bfloat16 and math.isfinite(x.sum().item())


def _may_be_written(z: Tensor) -> bool:
    return not z.is_inference() or torch.is_inference_mode_enabled()


@functools.cache
def has_native_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies in `dtype`; where it does not, widening to float32 is faster
    (and more precise)."""
    if dtype == torch.bfloat16:
        if platform.machine() in ("x86_64", "AMD64"):
            probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
            return any(getattr(torch.cpu, probe, bool)() for probe in probes)
        return _has("_is_mkldnn_bf16_supported")
    if dtype == torch.float16:
        return _has("_is_mkldnn_fp16_supported")
    return True


def _has(probe: str) -> bool:
    return torch.backends.mkldnn.is_available() and bool(getattr(torch.ops.mkldnn, probe)())


@functools.cache
def serves(dtype: torch.dtype) -> bool:
    """Whether oneDNN's fused convolutions take `dtype` on this CPU."""
    if not torch.backends.mkldnn.is_available():
        return False
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise_"):
        return False
    return dtype != torch.float64 and has_native_arithmetic(dtype)
