"""Batch norm folded into a convolution for CPU inference, and oneDNN's fused convolution + add + ReLU on it.

relu(gamma (conv(x, w) - mean) / sqrt(var + eps) + beta) = relu(conv(x, w') + b') with s = gamma /
sqrt(var + eps), w' = s w and b' = beta - s mean. s and b' are computed in float64, w' in the
accumulator's dtype, then rounded once.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda.ops._interface import BatchNormTensors, ConvGeometry, accumulator_dtype
from resnet_cuda.ops._layout import as_channels_last, is_channels_last

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_MAX_PACKED_SHAPES = 4
_SAMPLES, _SAMPLE_BYTES = 4, 32


class FoldedWeights(NamedTuple):
    """weight [K, C / groups, R, S] with the scale in it, bias [K]; packed: the weight in oneDNN's
    layout, or None."""

    weight: Tensor
    bias: Tensor
    wide_bias: Tensor  # the bias in the accumulator's dtype: oneDNN takes it where nothing is added
    packed: Tensor | None


class FoldedConv:
    """The folded and prepacked weights of one convolution + batch norm, remade whenever anything
    they depend on changed.

    A module owns one per convolution and passes it along. What is compared at each call: the
    weight by identity, address, version counter and a sample of its content (which catches most
    writes through `.data`, invisible to version counters); the batch norm's vectors by their whole
    content; eps, dtype and geometry by value. The cache is never copied or pickled.
    """

    __slots__ = ("_entry",)

    def __init__(self) -> None:
        self._entry: _Entry | None = None

    def clear(self) -> None:
        """Drops the folded weights (they are remade at the next inference call)."""
        self._entry = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is cached."""
        return self._entry is None

    def __copy__(self) -> FoldedConv:
        return FoldedConv()

    def __deepcopy__(self, memo: dict[int, Any]) -> FoldedConv:
        return FoldedConv()

    def __reduce__(self) -> tuple[type[FoldedConv], tuple[()]]:
        return FoldedConv, ()

    def fold(
        self,
        x: Tensor,
        weight: Tensor,
        bn: BatchNormTensors,
        geometry: ConvGeometry,
        eps: float,
        dtype: torch.dtype,
    ) -> FoldedWeights | None:
        """The folded weights in `dtype` for an input of x's shape; None where they cannot be made safely."""
        if not is_plain(x, weight, *bn):
            return None
        entry = self._entry
        if entry is None or not entry.is_current(weight, bn, dtype, geometry, eps):
            entry = _Entry(weight, bn, dtype, geometry, eps)
            self._entry = entry if entry.cacheable else None
        return entry.weights_for(x)


class _Entry:
    """One folded weight and what it was made from. Holds the sources' memory, so that an address
    cannot be reused."""

    def __init__(
        self,
        weight: Tensor,
        bn: BatchNormTensors,
        dtype: torch.dtype,
        geometry: ConvGeometry,
        eps: float,
    ) -> None:
        self.cacheable = not weight.is_inference() and _is_dense(weight)
        self.source = weight
        self.storage = weight.untyped_storage()
        self.address = weight.data_ptr()
        self.version = weight._version if self.cacheable else 0
        self.sample = _sample(weight) if self.cacheable else []
        self.vectors = _contents(bn)
        self.dtype, self.geometry, self.eps = dtype, geometry, eps
        self.weight, self.wide_bias = fold_batch_norm(weight, bn, eps, dtype)
        self.bias = self.wide_bias.to(dtype)
        self.fusable = _onednn_serves(dtype) and geometry.groups == 1
        self.packed: dict[tuple[int, ...], Tensor] = {}

    def is_current(
        self,
        weight: Tensor,
        bn: BatchNormTensors,
        dtype: torch.dtype,
        geometry: ConvGeometry,
        eps: float,
    ) -> bool:
        return (
            weight is self.source
            and weight.data_ptr() == self.address
            and weight._version == self.version
            and dtype == self.dtype
            and geometry == self.geometry
            and eps == self.eps
            and _contents(bn) == self.vectors
            and _sample(weight) == self.sample
        )

    def weights_for(self, x: Tensor) -> FoldedWeights:
        if not self.fusable or not torch.backends.mkldnn.enabled:
            return FoldedWeights(self.weight, self.bias, self.wide_bias, None)
        shape = tuple(x.shape)
        packed = self.packed.get(shape)
        if packed is None:
            if len(self.packed) >= _MAX_PACKED_SHAPES:
                self.packed = {}
            g = self.geometry
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, g.padding, g.stride, g.dilation, g.groups, shape
            )
            self.packed[shape] = packed
        return FoldedWeights(self.weight, self.bias, self.wide_bias, packed)


def fold_batch_norm(
    weight: Tensor, bn: BatchNormTensors, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(weight', bias') in `dtype` and its accumulator's dtype; weight' keeps weight's memory format."""
    acc = accumulator_dtype(dtype)
    assert bn.running_mean is not None and bn.running_var is not None
    scale = torch.rsqrt(bn.running_var.detach().double() + eps)
    if bn.gamma is not None:
        scale = scale * bn.gamma.detach().double()
    bias = -bn.running_mean.detach().double() * scale
    if bn.beta is not None:
        bias = bias + bn.beta.detach().double()
    folded = weight.detach().to(acc) * scale.to(acc).view(-1, 1, 1, 1)
    return folded.to(dtype), bias.to(acc)


def fused_convolution(
    x: Tensor,
    weights: FoldedWeights,
    geometry: ConvGeometry,
    residual: Tensor | None,
    relu: bool,
    donate_residual: bool,
) -> Tensor:
    """relu?(conv(x, weight) + bias + residual), in oneDNN's fused call where it can; a donated
    residual is overwritten."""
    g = geometry
    if weights.packed is None:
        z = torch.ops.aten.convolution.default(
            x,
            weights.weight,
            weights.bias,
            g.stride,
            g.padding,
            g.dilation,
            False,
            (0, 0),
            g.groups,
        )
        if residual is not None:
            z.add_(residual)
        return z.relu_() if relu else z
    channels_last = is_channels_last(x) or is_channels_last(weights.weight)
    x = as_channels_last(x) if channels_last else x.contiguous()
    fused_add = residual is not None and channels_last
    if not fused_add:
        z = torch.ops.mkldnn._convolution_pointwise.default(
            x,
            weights.packed,
            weights.wide_bias,
            g.padding,
            g.stride,
            g.dilation,
            g.groups,
            "relu" if relu and residual is None else "none",
            [],
            "",
        )
        if residual is None:
            return z
        z.add_(residual)
        return z.relu_() if relu else z
    assert residual is not None
    z = as_channels_last(residual)
    if z is residual and not donate_residual:
        z = residual.clone()
    return torch.ops.mkldnn._convolution_pointwise_.binary(
        z,
        x,
        weights.packed,
        weights.bias,
        g.padding,
        g.stride,
        g.dilation,
        g.groups,
        "add",
        1.0,
        "relu" if relu else None,
        [],
        None,
    )


@functools.cache
def has_native_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies in `dtype`; where it does not, widening to float32 is faster
    (and more precise)."""
    if dtype == torch.bfloat16:
        if platform.machine() in ("x86_64", "AMD64"):
            probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
            return any(getattr(torch.cpu, probe, bool)() for probe in probes)
        return _onednn_has("_is_mkldnn_bf16_supported")
    if dtype == torch.float16:
        return _onednn_has("_is_mkldnn_fp16_supported")
    return True


def _onednn_has(probe: str) -> bool:
    return torch.backends.mkldnn.is_available() and bool(getattr(torch.ops.mkldnn, probe)())


@functools.cache
def _onednn_serves(dtype: torch.dtype) -> bool:
    ops = torch.ops.mkldnn
    if not torch.backends.mkldnn.is_available() or not hasattr(ops, "_convolution_pointwise_"):
        return False
    return dtype != torch.float64 and has_native_arithmetic(dtype)


def is_plain(*tensors: Tensor | None) -> bool:
    """Ordinary CPU tensors with memory: no subclasses, no functorch wrappers, no tracing."""
    if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    for tensor in tensors:
        if tensor is not None and not (type(tensor) in _PLAIN_TYPES and tensor.is_cpu):
            return False
    return True


def _is_dense(weight: Tensor) -> bool:
    return weight.is_contiguous() or weight.is_contiguous(memory_format=torch.channels_last)


def _contents(bn: BatchNormTensors) -> list[bytes | None]:
    """The vectors' bytes: a few KB per convolution, read in about a microsecond."""
    return [None if vector is None else _bytes(vector) for vector in bn]


def _bytes(vector: Tensor) -> bytes:
    if not vector.is_contiguous():
        vector = vector.detach().contiguous()
    return ctypes.string_at(vector.data_ptr(), vector.numel() * vector.element_size())


def _sample(weight: Tensor) -> list[bytes]:
    size = weight.numel() * weight.element_size()
    if size <= _SAMPLES * _SAMPLE_BYTES:
        return [ctypes.string_at(weight.data_ptr(), size)]
    start, step = weight.data_ptr(), (size - _SAMPLE_BYTES) // (_SAMPLES - 1)
    return [ctypes.string_at(start + i * step, _SAMPLE_BYTES) for i in range(_SAMPLES)]
