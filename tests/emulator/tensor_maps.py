"""Tensor maps and boxes in Python: how to pass them to ``tensor_boxes.cu``, and what a box holds, said with numpy.

The descriptions pad the tensor with zeros and index it; nothing in them walks along addresses as the emulator does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

UINT8, INT32, FLOAT16, BFLOAT16, FLOAT32, FLOAT64 = range(6)
ELEMENT_BYTES = {UINT8: 1, INT32: 4, FLOAT16: 2, BFLOAT16: 2, FLOAT32: 4, FLOAT64: 8}
SWIZZLE_NONE, SWIZZLE_32, SWIZZLE_64, SWIZZLE_128 = range(4)
SWIZZLE_BYTES = {SWIZZLE_32: 32, SWIZZLE_64: 64, SWIZZLE_128: 128}


def padded(values: Sequence[int], count: int, fill: int = 0) -> list[int]:
    return [*values, *(fill,) * (count - len(values))]


@dataclass
class Tensor:
    """A tensor in global memory. Dimensions are innermost first, as tensor maps have them."""

    element: int
    dims: Sequence[int]
    padding: Sequence[int] = ()  # unused bytes after each row, plane, ...
    strides_bytes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.strides_bytes = []
        size = self.dims[0] * self.element_bytes
        for dim, extra in zip(self.dims[1:], padded(self.padding, len(self.dims) - 1), strict=True):
            size = -(-size // 16) * 16 + extra
            self.strides_bytes.append(size)
            size *= dim
        self.bytes = size

    @property
    def element_bytes(self) -> int:
        return ELEMENT_BYTES[self.element]

    @property
    def rank(self) -> int:
        return len(self.dims)

    def view(self, memory: np.ndarray) -> np.ndarray:
        """Its elements as unsigned integers, outermost dimension first, in `memory` of bytes."""
        dtype = np.dtype(f"u{self.element_bytes}")
        strides = [*reversed(self.strides_bytes), self.element_bytes]
        return np.ndarray(tuple(reversed(self.dims)), dtype, memory.data, 0, tuple(strides))


@dataclass
class TiledBox:
    tensor: Tensor
    box: Sequence[int]
    coordinates: Sequence[int]
    element_strides: Sequence[int] = ()
    swizzle: int = SWIZZLE_NONE
    start: int = 0  # in shared memory

    def numbers(self) -> list[int]:
        return _numbers(self, tile=self.box)

    @property
    def strides(self) -> list[int]:
        """Of dimension 0 the stride has no effect."""
        return [1, *padded(self.element_strides, self.tensor.rank, 1)[1:]]

    @property
    def shape(self) -> list[int]:
        """Elements in shared memory, innermost first."""
        return [
            -(-box // max(stride, 1)) for box, stride in zip(self.box, self.strides, strict=True)
        ]

    @property
    def row_bytes(self) -> int:
        return self.box[0] * self.tensor.element_bytes

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.tensor.element_bytes

    def indices(self) -> tuple[np.ndarray, ...]:
        """Per dimension, outermost first, the tensor's coordinate of each element of the box."""
        axes = [
            start + stride * np.arange(count)
            for start, stride, count in zip(self.coordinates, self.strides, self.shape, strict=True)
        ]
        return np.ix_(*reversed(axes))

    def load(self, memory: np.ndarray) -> np.ndarray:
        """The bytes of the box, row by row, before swizzling."""
        return _take(self.tensor.view(memory), self.indices())

    def store(self, memory: np.ndarray, box: np.ndarray) -> None:
        """Writes the bytes of the box to the tensor."""
        target = self.tensor.view(memory)
        source = np.frombuffer(box.tobytes(), target.dtype).reshape(tuple(reversed(self.shape)))
        axes = [axis.ravel() for axis in self.indices()]
        inside = [
            (axis >= 0) & (axis < size) for axis, size in zip(axes, target.shape, strict=True)
        ]
        kept = [axis[keep] for axis, keep in zip(axes, inside, strict=True)]
        target[np.ix_(*kept)] = source[np.ix_(*inside)]


@dataclass
class Im2colBox:
    """A box of a tensor of dims {C, W, (H, (D,)) N}; corners, offsets in W, H, D order."""

    tensor: Tensor
    channels: int
    pixels: int
    lower: Sequence[int]
    upper: Sequence[int]
    coordinates: Sequence[int]
    offsets: Sequence[int]
    element_strides: Sequence[int] = ()
    swizzle: int = SWIZZLE_NONE
    start: int = 0

    def numbers(self) -> list[int]:
        return _numbers(
            self,
            lower=self.lower,
            upper=self.upper,
            channels=self.channels,
            pixels=self.pixels,
            offsets=self.offsets,
        )

    @property
    def row_bytes(self) -> int:
        return self.channels * self.tensor.element_bytes

    @property
    def bytes(self) -> int:
        return self.pixels * self.row_bytes

    def base_pixels(self) -> np.ndarray:
        """The coordinates of the base pixels, W first: all rows of the bounding box from the start on, in order."""
        start, dims = self.coordinates[1:], self.tensor.dims[1:]
        strides = padded(self.element_strides, self.tensor.rank, 1)[1:]
        spatial = len(self.lower)
        # A dimension begins at the start once, then at the box's lower corner.
        full = [
            list(range(self.lower[d], dims[d] + self.upper[d], strides[d])) for d in range(spatial)
        ]
        first = [list(range(start[d], dims[d] + self.upper[d], strides[d])) for d in range(spatial)]
        pixels = list(
            itertools.islice(self._enumerate(first, full, start[-1], strides[-1]), self.pixels)
        )
        return np.array(pixels)

    @staticmethod
    def _enumerate(
        first: list[list[int]], full: list[list[int]], image: int, image_stride: int
    ) -> Iterator[tuple[int, ...]]:
        def block(dimension: int, fresh: bool) -> Iterator[tuple[int, ...]]:
            """Base pixels of the dimensions up to this one; `fresh`: from the start, not from the corner."""
            if dimension < 0:
                yield ()
                return
            for i, at in enumerate(first[dimension] if fresh else full[dimension]):
                for inner in block(dimension - 1, fresh and i == 0):
                    yield (*inner, at)

        for n in itertools.count():
            for spatial in block(len(first) - 1, n == 0):
                yield (*spatial, image + n * image_stride)

    def load(self, memory: np.ndarray) -> np.ndarray:
        at = self.base_pixels()
        at[:, : len(self.offsets)] += np.array(self.offsets)
        channels = self.coordinates[0] + np.arange(self.channels)
        indices = (*(axis[:, None] for axis in reversed(at.T)), channels[None, :])
        return _take(self.tensor.view(memory), indices)


def _take(tensor: np.ndarray, indices: Sequence[np.ndarray]) -> np.ndarray:
    """The elements at these indices, zero outside, as bytes."""
    inside = np.array(True)
    clipped = []
    for axis, size in zip(indices, tensor.shape, strict=True):
        inside = inside & (axis >= 0) & (axis < size)
        clipped.append(np.clip(axis, 0, size - 1))
    elements = np.where(inside, tensor[tuple(clipped)], 0).astype(tensor.dtype)
    return np.frombuffer(elements.tobytes(), np.uint8)


def _numbers(
    box: TiledBox | Im2colBox,
    *,
    tile: Sequence[int] = (),
    lower: Sequence[int] = (),
    upper: Sequence[int] = (),
    channels: int = 0,
    pixels: int = 0,
    offsets: Sequence[int] = (),
) -> list[int]:
    """BoxNumbers of tensor_boxes.cuh, then where the box begins in shared memory, and its bytes."""
    tensor = box.tensor
    return [
        int(isinstance(box, Im2colBox)),
        tensor.element,
        tensor.rank,
        box.swizzle,
        *padded(tensor.dims, 5),
        *padded(tensor.strides_bytes, 4),
        *padded(box.element_strides, 5, 1),
        *padded(tile, 5),
        *padded(lower, 3),
        *padded(upper, 3),
        channels,
        pixels,
        *padded(box.coordinates, 5),
        *padded(offsets, 3),
        box.start,
        box.bytes,
    ]


def swizzle(box: np.ndarray, mode: int, row_bytes: int, start: int) -> np.ndarray:
    """Where a box's bytes lie in shared memory, from an address of the given offset on.

    A swizzle of W bytes lays rows of W bytes, of 16-byte chunks, below one another. Memory is taken in lines of 128
    bytes; the chunks of a row in line l of a group of eight are exchanged by exclusive or with l, for narrower
    swizzles with the lower bits that the row's number of chunks leaves.
    """
    if mode == SWIZZLE_NONE:
        return box
    width = SWIZZLE_BYTES[mode]
    assert row_bytes == width
    chunks = box.reshape(-1, width // 16, 16)
    swizzled = np.empty_like(chunks)
    for row, pieces in enumerate(chunks):
        line = (start + row * width) // 128 % 8
        for chunk, piece in enumerate(pieces):
            swizzled[row, chunk ^ (line % len(pieces))] = piece
    return swizzled.ravel()
