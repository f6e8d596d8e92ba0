"""Where the PTX ISA puts elements: registers of fragments, shared memory of matrices, boxes and columns of TMA.

Written from the manual's figures and formulas (sections "Warp Level Matrix Multiply-Accumulate Instructions",
"Asynchronous Warpgroup Level Matrix Instructions" and "Tensors"), not from csrc: these functions judge both the
emulator and the wrappers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LANES = np.arange(32)
GROUP, MEMBER = LANES // 4, LANES % 4  # groupID and threadID_in_group of the manual


# ---------------------------------------------------------------- fragments: (row, column) of each element a lane holds


def fragment_a(m: int, k: int, per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of A's elements by [lane, register, part]; registers run down the rows first."""
    if m == 8:
        return GROUP[:, None, None], MEMBER[:, None, None]
    width = 4 * per_register  # columns that one register of all lanes covers
    registers = np.arange(2 * (k // width))
    parts = np.arange(per_register)
    row = GROUP[:, None, None] + 8 * (registers % 2)[None, :, None] + 0 * parts
    column = per_register * MEMBER[:, None, None] + parts + width * (registers // 2)[None, :, None]
    return np.broadcast_arrays(row, column)


def fragment_b(k: int, per_register: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (k) and columns (n) of B's elements by [lane, register, part]."""
    width = 4 * per_register
    registers = np.arange(k // width)
    parts = np.arange(per_register)
    row = per_register * MEMBER[:, None, None] + parts + width * registers[None, :, None]
    return np.broadcast_arrays(row, GROUP[:, None, None])


def fragment_c(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of C's elements by [lane, register]."""
    registers = np.arange(4 if m == 16 else 2)
    row = GROUP[:, None] + 8 * (registers // 2)
    return np.broadcast_arrays(row, 2 * MEMBER[:, None] + registers % 2)


def packed(elements: np.ndarray) -> np.ndarray:
    """Elements by [..., part] as registers: the first part in the lower bits."""
    return np.ascontiguousarray(elements).view(np.uint32)[..., 0]


def warpgroup_accumulators(d: np.ndarray) -> np.ndarray:
    """D (64 x N) by [thread of the warpgroup, register]: warp w has rows 16 w to 16 w + 15."""
    registers = np.arange(d.shape[1] // 2)
    thread = np.arange(128)[:, None]
    row = 16 * (thread // 32) + thread % 32 // 4 + 8 * (registers // 2 % 2)
    column = 8 * (registers // 4) + 2 * (thread % 4) + registers % 2
    return d[row, column]


# ---------------------------------------------------------------- swizzles


def swizzled(offset: np.ndarray, span: int) -> np.ndarray:
    """Byte addresses after a swizzle over `span` bytes (16: none): chunks of 16 bytes change places in each line of
    128 bytes by the number of the line."""
    chunks = span // 16
    line = offset // 128
    chunk = offset // 16 % 8
    return 128 * line + 16 * (chunk ^ (line % chunks)) + offset % 16


# ---------------------------------------------------------------- operands of wgmma in shared memory

SWIZZLE_CODES = {16: 0, 128: 1, 64: 2, 32: 3}


@dataclass(frozen=True)
class Operand:
    """An image of shared memory, its descriptor without the address, and the byte offset of each step along K."""

    image: np.ndarray
    descriptor: int
    offsets: tuple[int, ...]


def _operand(
    elements: np.ndarray,
    offset: Callable[[np.ndarray, np.ndarray], np.ndarray],
    span: int,
    leading: int,
    stride: int,
    step: int,
) -> Operand:
    rows, depth = elements.shape
    at = swizzled(offset(np.arange(rows)[:, None], np.arange(depth)[None, :]), span)
    size = elements.itemsize
    gap = np.uint16(0x7FFF) if size == 2 else np.uint32(0x7FFFFFFF)  # NaN: never to be read
    image = np.full(-(-(int(at.max()) + size) // 1024) * 1024 // size, gap)
    image[at // size] = elements
    descriptor = (leading >> 4) << 16 | (stride >> 4) << 32 | SWIZZLE_CODES[span] << 62
    starts = [int(offset(np.int64(0), np.int64(k))) for k in range(0, depth, step)]
    signed = descriptor - (1 << 64) if descriptor >> 63 else descriptor
    return Operand(image, signed, tuple(starts))


def k_major(elements: np.ndarray, span: int, spread: int = 1, behind: int = 0) -> Operand:
    """Rows of A, or columns of B, by [row, k], with K contiguous. Pieces of 8 rows are `spread` times as far apart
    as they need be. Where K is longer than the swizzle's span the tile continues behind all rows. Without a swizzle
    it may begin `behind` so many other rows, of which a piece of 8 need not be made up."""
    rows, depth = elements.shape
    size = elements.itemsize
    step = 32 // size
    if span == 16:
        stride, leading = 128 * spread, (rows * spread + behind) * 16

        def offset(row: np.ndarray, k: np.ndarray) -> np.ndarray:
            byte = k * size
            within = row // 8 * stride + row % 8 * 16 + byte % 16
            return behind * 16 + byte // 16 * leading + within

        return _operand(elements, offset, span, leading, stride, step)
    stride = 8 * span * spread

    def offset(row: np.ndarray, k: np.ndarray) -> np.ndarray:
        byte = k * size
        atom = byte // span * (rows // 8 * stride)
        return atom + row // 8 * stride + row % 8 * span + byte % span

    return _operand(elements, offset, span, 16, stride, step)


def mn_major(elements: np.ndarray, span: int, pieces_first: bool = False) -> Operand:
    """16-bit elements by [mn, k], with M or N contiguous: pieces of span / 2 elements by 8 steps of K. One piece
    follows another along K, or, with `pieces_first`, along M or N."""
    rows, depth = elements.shape
    piece = 8 * span
    width = span // 2
    along_mn, along_k = (
        (piece, rows // width * piece) if pieces_first else (depth // 8 * piece, piece)
    )

    def offset(mn: np.ndarray, k: np.ndarray) -> np.ndarray:
        return mn // width * along_mn + k // 8 * along_k + k % 8 * span + 2 * (mn % width)

    leading, stride = (along_k, along_mn) if span == 16 else (along_mn, along_k)
    return _operand(elements, offset, span, leading, stride, 16)


# ---------------------------------------------------------------- TMA


def tile(
    tensor: np.ndarray, box: tuple[int, ...], start: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    """The box of a tensor; box, start and strides innermost first, the arrays outermost first. Outside is zero."""
    shape = [-(-extent // stride) for extent, stride in zip(box, strides, strict=True)]
    shape[0] = box[0]
    out = np.zeros(shape[::-1], tensor.dtype)
    for index in np.ndindex(*out.shape):
        steps = [1, *strides[1:]]
        at = tuple(
            first + i * step for first, i, step in zip(start, index[::-1], steps, strict=True)
        )[::-1]
        if all(0 <= i < extent for i, extent in zip(at, tensor.shape, strict=True)):
            out[index] = tensor[at]
    return out


def im2col(
    tensor: np.ndarray,
    lower: tuple[int, ...],
    upper: tuple[int, ...],
    strides: tuple[int, ...],
    start: tuple[int, ...],
    offsets: tuple[int, ...],
    channels: int,
    pixels: int,
) -> np.ndarray:
    """Columns of a filter tap by [pixel, channel]. The tensor is N, (D, (H,)) W, C; all tuples are W first, `start`
    with the channel before and the image behind.

    Seen as a convolution: the bounding box holds a grid of base pixels, and the pixels of a column are consecutive
    positions of that grid, image after image.
    """
    extents = tensor.shape[-2:0:-1]  # W, H, D
    grid = [
        (extent - 1 + high - low) // stride + 1
        for extent, low, high, stride in zip(extents, lower, upper, strides, strict=True)
    ]
    first_channel, *first, image = start
    position = [(at - low) // stride for at, low, stride in zip(first, lower, strides, strict=True)]
    linear = np.ravel_multi_index((0, *position[::-1]), (1, *grid[::-1])) + image * int(
        np.prod(grid)
    )
    out = np.zeros((pixels, channels), tensor.dtype)
    for pixel in range(pixels):
        image, rest = divmod(int(linear) + pixel, int(np.prod(grid)))
        place = np.unravel_index(rest, grid[::-1])[::-1]  # W, H, D
        at = [
            low + int(p) * stride + offset
            for low, p, stride, offset in zip(lower, place, strides, offsets, strict=True)
        ]
        inside = image < tensor.shape[0] and all(
            0 <= i < extent for i, extent in zip(at, extents, strict=True)
        )
        for channel in range(channels):
            if inside and 0 <= first_channel + channel < tensor.shape[-1]:
                out[pixel, channel] = tensor[(image, *at[::-1], first_channel + channel)]
    return out
