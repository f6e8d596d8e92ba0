"""Batch norm folded into a convolution for CPU inference, and a cache of the result that is never stale.

relu(gamma (conv(x, w) - mean) / sqrt(var + eps) + beta) = relu(conv(x, w') + b') with s = gamma /
sqrt(var + eps), w' = s w and b' = beta - s mean. s and b' are computed in float64, w' in the
accumulator's dtype, then rounded once.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor

from resnet_cuda.ops import _onednn
from resnet_cuda.ops._interface import BatchNormTensors, ConvGeometry, accumulator_dtype
from resnet_cuda.ops._onednn import FoldedWeights

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_MAX_SHAPES = 4  # input shapes for which packed weights are kept
_SAMPLES, _SAMPLE_BYTES = 4, 32


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
        if not is_plain(x):
            return None
        entry = self._entry
        if entry is None or not entry.is_current(weight, bn, dtype, geometry, eps):
            if not is_plain(weight, *bn):
                return None
            entry = _Entry(weight, bn, dtype, geometry, eps)
            self._entry = entry if entry.cacheable else None
        key = (x.shape, torch._C._get_mkldnn_enabled())
        shape = entry.packed_for.get(key)
        if shape is None:
            pays = entry.packable and key[1] and _onednn.pays(x.shape, weight, geometry, dtype)
            if len(entry.packed_for) >= _MAX_SHAPES:
                entry.packed_for.clear()
            shape = entry.packed_for[key] = tuple(x.shape) if pays else ()
        found = entry.by_shape.get(shape)
        if found is None:
            if len(entry.by_shape) >= _MAX_SHAPES:
                entry.by_shape = {}
            found = entry.by_shape[shape] = _fold(weight, bn, eps, dtype, geometry, shape)
        return found


class _Entry:
    """Folded weights and what they were made from. Holds the sources' memory, so that an address
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
        self.samples = _samples(weight) if self.cacheable else []
        self.vectors = [None if vector is None else _Content(vector) for vector in bn]
        self.dtype, self.geometry, self.eps = dtype, geometry, eps
        self.packable = geometry.groups == 1 and _onednn.serves(dtype)
        self.packed_for: dict[tuple[torch.Size, bool], tuple[int, ...]] = {}  # keys of by_shape
        self.by_shape: dict[tuple[int, ...], FoldedWeights] = {}  # by x's shape; () is unpacked

    def is_current(
        self,
        weight: Tensor,
        bn: BatchNormTensors,
        dtype: torch.dtype,
        geometry: ConvGeometry,
        eps: float,
    ) -> bool:
        if not (
            weight is self.source
            and weight.data_ptr() == self.address
            and weight._version == self.version
            and dtype == self.dtype
            and geometry == self.geometry
            and eps == self.eps
        ):
            return False
        for content, vector in zip(self.vectors, bn, strict=True):
            if not _is_unchanged(content, vector):
                return False
        for (
            memory,
            value,
        ) in self.samples:  # no all(): its generators take longer than what they ask
            if memory.raw != value:
                return False
        return True


def _fold(
    weight: Tensor,
    bn: BatchNormTensors,
    eps: float,
    dtype: torch.dtype,
    geometry: ConvGeometry,
    shape: tuple[int, ...],
) -> FoldedWeights:
    folded, bias = fold_batch_norm(weight, bn, eps, dtype)
    return _onednn.fold_weights(folded, bias, geometry, shape)


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


class _Content:
    """A vector's bytes: a few KB per convolution, read in a fraction of a microsecond."""

    __slots__ = ("address", "memory", "value", "vector")

    def __init__(self, vector: Tensor) -> None:
        self.vector = vector  # so that the address is nobody else's
        self.address = vector.data_ptr() if vector.is_contiguous() else 0
        self.memory = _memory(self.address, vector.numel() * vector.element_size())
        self.value = _bytes(vector)


def _is_unchanged(content: _Content | None, vector: Tensor | None) -> bool:
    if content is None or vector is None:
        return content is vector
    if vector is content.vector and content.address and vector.data_ptr() == content.address:
        return bool(content.memory.raw == content.value)
    return is_plain(vector) and _bytes(vector) == content.value


def _bytes(vector: Tensor) -> bytes:
    if not vector.is_contiguous():
        vector = vector.detach().contiguous()
    return ctypes.string_at(vector.data_ptr(), vector.numel() * vector.element_size())


def _samples(weight: Tensor) -> list[tuple[Any, bytes]]:
    """Pieces of memory, and what is in them."""
    size = weight.numel() * weight.element_size()
    start, step, piece = weight.data_ptr(), 0, size
    if size > _SAMPLES * _SAMPLE_BYTES:
        step, piece = (size - _SAMPLE_BYTES) // (_SAMPLES - 1), _SAMPLE_BYTES
    pieces = [_memory(start + i * step, piece) for i in range(_SAMPLES if step else 1)]
    return [(memory, memory.raw) for memory in pieces]


def _memory(address: int, size: int) -> Any:
    """The bytes there. To be read only while they belong to a tensor that is held."""
    return _bytes_type(size if address else 0).from_address(address)


@functools.cache
def _bytes_type(size: int) -> Any:
    """ctypes' array type; types are in reference cycles, so one of each size is kept."""
    return ctypes.c_char * size
