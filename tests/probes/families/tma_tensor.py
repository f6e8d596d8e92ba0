"""Tensors in global memory, and what TMA probes have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.probes.layouts import swizzled
from tests.probes.probe import HOPPER, Probe, Vectors, random

UNTOUCHED = np.uint8(0xCD)
BEHIND = 128  # bytes behind a box that must stay untouched
PADDING = 0xEE  # between a tensor's rows: never to be read or written

# As TensorElement and Swizzle in csrc; numpy types of the same size, since TMA only moves bits, but for tf32.
ELEMENTS = {
    "u8": (0, "u1"),
    "f16": (2, "u2"),
    "bf16": (3, "u2"),
    "f32": (4, "u4"),
    "f64": (5, "u8"),
    "tf32": (6, "u4"),
}
SWIZZLES = {16: 0, 32: 1, 64: 2, 128: 3}


@dataclass(frozen=True)
class Tensor:
    """All tuples innermost first."""

    dims: tuple[int, ...]
    element: str = "f32"
    padding: int = 0  # bytes behind each row

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(ELEMENTS[self.element][1])

    @property
    def strides(self) -> list[int]:
        """Bytes, of dimensions 1 on, and then of the whole tensor."""
        row = -(-self.dims[0] * self.dtype.itemsize // 16) * 16 + self.padding
        return [row * math.prod(self.dims[1 : i + 1]) for i in range(len(self.dims))]

    def values(self, seed: int) -> np.ndarray:
        if self.element == "tf32":
            return float32_near_ties(seed, self.dims[::-1])
        return random(seed, 1, 251, *self.dims[::-1]).astype(self.dtype)

    def loaded(self, values: np.ndarray) -> np.ndarray:
        """As a load brings them."""
        return rounded_to_tf32(values) if self.element == "tf32" else values

    def memory(self, values: np.ndarray) -> np.ndarray:
        """Rows with what lies between them, by [row, byte]."""
        rows = np.full((math.prod(self.dims[1:]), self.strides[0]), PADDING, np.uint8)
        held = np.ascontiguousarray(values).view(np.uint8).reshape(len(rows), -1)
        rows[:, : held.shape[1]] = held
        return rows

    def numbers(self, span: int, element_strides: tuple[int, ...], start: tuple[int, ...]) -> list:
        def five(values: list[int] | tuple[int, ...], rest: int) -> list[int]:
            return [*values, *[rest] * (5 - len(values))]

        return [
            ELEMENTS[self.element][0],
            SWIZZLES[span],
            *five(self.dims, 1),
            *five(self.strides[:-1], 0)[:4],
            *five(element_strides, 1),
            *five(start, 0),
        ]


def float32_near_ties(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """The bits of numbers of all sizes on, below and above ties between two of TF32, of infinities and NaN.

    Without subnormal numbers and those that would become infinite: nobody says what TMA makes of them.
    """
    exponent = random(seed, 1, 254, *shape).astype(np.uint32)
    kept = random(seed + 1, 0, 1024, *shape).astype(np.uint32)
    kept.flat[::5] = 1023  # rounded up, it carries into the exponent
    cut = np.choose(random(seed + 2, 0, 6, *shape), [0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF])
    negative = random(seed + 3, 0, 2, *shape).astype(np.uint32)
    bits = negative << 31 | exponent << 23 | kept << 13 | cut.astype(np.uint32)
    bits.flat[::17] = np.resize([0x7F800000, 0xFF800000, 0x7FC00001], bits.flat[::17].size)
    return bits


def rounded_to_tf32(bits: np.ndarray) -> np.ndarray:
    """To nearest, a tie to even."""
    finite = (bits & 0x7FFFFFFF) < 0x7F800000
    rounded = (bits + 0xFFF + (bits >> 13 & 1)) & ~np.uint32(0x1FFF)
    return np.where(finite, rounded, bits).astype(np.uint32)


def in_shared_memory(box: np.ndarray, span: int) -> np.ndarray:
    """The bytes of a box as a load leaves them and a store wants them."""
    packed = np.ascontiguousarray(box).view(np.uint8).ravel()
    out = np.zeros_like(packed)
    out[swizzled(np.arange(packed.size), span)] = packed
    return out


def with_margin(data: np.ndarray) -> np.ndarray:
    return np.concatenate([data, np.full(BEHIND, UNTOUCHED)]).reshape(-1, 16)


# ---------------------------------------------------------------- multicast

STEP = 33  # the index of the step from box to box among the numbers
MASKS = (0b1111, 0b0010, 0b1001, 0b0110)  # who gets the box of each of the four blocks


def multicast(
    name: str,
    tensor: Tensor,
    numbers: tuple[int, ...],
    step: int,
    part: Callable[[np.ndarray, int], np.ndarray],
) -> Probe:
    """Each of four blocks loads a box for others: `part` gives its bytes, shifted along the last dimension."""

    def describe() -> Vectors:
        values = tensor.values(66)
        parts = [part(values, block * step) for block in range(4)]
        out = np.full((4, 4, parts[0].size), UNTOUCHED)
        for source, mask in enumerate(MASKS):
            for block in range(4):
                if mask >> block & 1:
                    out[block, source] = parts[source]
        return Vectors((tensor.memory(values),), out)

    numbers = (*numbers, *[0] * (STEP - len(numbers)), step, *MASKS)
    return Probe(name, name, describe, ("block", "part", "byte"), numbers, HOPPER)
