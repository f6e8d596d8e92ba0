"""Where the PTX ISA puts matrix elements, as the layouts CUTLASS publishes for its instructions.

A layout is a shape and strides for each of (thread, value), and maps them to an index of the matrix in column-major
order (mma_traits_sm80.hpp, mma_traits_sm90_gmma.hpp). The canonical layouts of wgmma's operands are those in the
comment of mma_sm90_desc.hpp. Nothing here is taken from the emulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Mode = tuple[tuple[int, ...], tuple[int, ...]]  # shape, strides


def offsets(mode: Mode) -> np.ndarray:
    """The offsets of all coordinates of a mode; the first coordinate runs fastest."""
    total = np.zeros(1, np.int64)
    for extent, stride in zip(*mode, strict=True):
        total = (np.arange(extent)[:, None] * stride + total[None, :]).ravel()
    return total


@dataclass(frozen=True)
class Layout:
    """(thread, value) -> (row, column) of a matrix with ``rows`` rows."""

    rows: int
    thread: Mode
    value: Mode

    def coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns by [thread, value]."""
        index = offsets(self.thread)[:, None] + offsets(self.value)[None, :]
        return index % self.rows, index // self.rows


@dataclass(frozen=True)
class Instruction:
    """Layouts of A (m, k), B (n, k) and C (m, n)."""

    m: int
    n: int
    k: int
    a: Layout
    b: Layout
    c: Layout


C_16x8 = Layout(16, ((4, 8), (32, 1)), ((2, 2), (16, 8)))
M16N8K16 = Instruction(
    16,
    8,
    16,
    Layout(16, ((4, 8), (32, 1)), ((2, 2, 2), (16, 8, 128))),
    Layout(8, ((4, 8), (16, 1)), ((2, 2), (8, 64))),
    C_16x8,
)
M16N8K8 = Instruction(
    16,
    8,
    8,
    Layout(16, ((4, 8), (32, 1)), ((2, 2), (16, 8))),
    Layout(8, ((4, 8), (16, 1)), ((2,), (8,))),
    C_16x8,
)
M16N8K8_TF32 = Instruction(
    16,
    8,
    8,
    Layout(16, ((4, 8), (16, 1)), ((2, 2), (8, 64))),
    Layout(8, ((4, 8), (8, 1)), ((2,), (32,))),
    C_16x8,
)
M8N8K4_F64 = Instruction(
    8,
    8,
    4,
    Layout(8, ((4, 8), (8, 1)), ((1,), (0,))),
    Layout(8, ((4, 8), (8, 1)), ((1,), (0,))),
    Layout(8, ((4, 8), (16, 1)), ((2,), (8,))),
)


def wgmma_accumulators(n: int) -> Layout:
    return Layout(64, ((4, 8, 4), (128, 1, 16)), ((2, 2, n // 8), (64, 8, 512)))


WGMMA_A = Layout(64, ((4, 8, 4), (128, 1, 16)), ((2, 2, 2), (64, 8, 512)))
WGMMA_A_TF32 = Layout(64, ((4, 8, 4), (64, 1, 16)), ((2, 2), (8, 256)))


# ---------------------------------------------------------------- operands of wgmma in shared memory


def swizzle(address: np.ndarray, bits: int) -> np.ndarray:
    """Swizzle<bits, 4, 3> on byte addresses."""
    return address ^ ((address >> 3) & (((1 << bits) - 1) << 4))


@dataclass(frozen=True)
class Operand:
    """A canonical layout with its strides in bytes. ``bits``: 0 none, 1, 2, 3 for 32, 64, 128 bytes."""

    mn_major: bool
    bits: int
    leading: int
    stride: int

    def addresses(self, start: int, extent: int, depth: int, element_bytes: int) -> np.ndarray:
        """Byte addresses of the elements by [mn, k]."""
        mn, k = np.arange(extent)[:, None], np.arange(depth)[None, :]
        per_unit = 16 // element_bytes  # elements of a 16-byte unit
        units = 1 << self.bits  # of the swizzle's width
        if self.mn_major:
            # ((units, n), (8, k)) : ((1, LBO), (units, SBO));
            # without swizzle ((1, n), (8, k)) : ((X, SBO), (1, LBO))
            unit, within = mn // per_unit, mn % per_unit
            outer, inner = (self.leading, self.stride) if self.bits else (self.stride, self.leading)
            address = (
                unit % units * 16 + unit // units * outer + k % 8 * units * 16 + k // 8 * inner
            )
        else:
            # ((8, n), 2) : ((units, SBO), 1); without swizzle ((8, n), 2) : ((1, SBO), LBO)
            unit, within = k // per_unit, k % per_unit
            step = 16 if self.bits else self.leading
            address = mn % 8 * units * 16 + mn // 8 * self.stride + unit * step
        return swizzle(start + address, self.bits) + within * element_bytes

    def descriptor(self, start: int) -> int:
        code = {0: 0, 1: 3, 2: 2, 3: 1}[self.bits]
        return start >> 4 | self.leading >> 4 << 16 | self.stride >> 4 << 32 | code << 62
