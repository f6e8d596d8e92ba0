"""TMA of im2col columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.probes.families.tma_tensor import Tensor, in_shared_memory, multicast, with_margin
from tests.probes.layouts import im2col
from tests.probes.probe import HOPPER, Probe, Vectors


@dataclass(frozen=True)
class Filter:
    """A convolution's filter along one dimension, which fixes the bounding box of base pixels."""

    taps: int = 3
    padding: int = 1
    stride: int = 1
    dilation: int = 1

    @property
    def lower(self) -> int:
        return -self.padding

    @property
    def upper(self) -> int:
        return self.padding - (self.taps - 1) * self.dilation


@dataclass(frozen=True)
class Im2col:
    """All tuples W first, `start` with the channel before and the image behind."""

    name: str
    tensor: Tensor
    lower: tuple[int, ...]
    upper: tuple[int, ...]
    strides: tuple[int, ...]
    start: tuple[int, ...]
    offsets: tuple[int, ...]
    channels: int
    pixels: int
    span: int = 16

    @property
    def numbers(self) -> tuple[int, ...]:
        def three(values: tuple[int, ...]) -> list[int]:
            return [*values, *[0] * (3 - len(values))]

        words = self.channels * self.pixels * self.tensor.dtype.itemsize // 4
        head = self.tensor.numbers(self.span, (1, *self.strides, 1), self.start)
        corners = (*three(self.lower), *three(self.upper), *three(self.offsets))
        return (*head, words, *corners, self.channels, self.pixels)

    def column(self, values: np.ndarray, image: int) -> np.ndarray:
        start = (*self.start[:-1], image)
        column = im2col(
            self.tensor.loaded(values),
            self.lower,
            self.upper,
            self.strides,
            start,
            self.offsets,
            self.channels,
            self.pixels,
        )
        return in_shared_memory(column, self.span)

    def load(self) -> Vectors:
        values = self.tensor.values(65)
        return Vectors(
            (self.tensor.memory(values),), with_margin(self.column(values, self.start[-1]))
        )

    def probe(self) -> Probe:
        kernel = f"tma_im2col_{len(self.tensor.dims)}d"
        return Probe(
            f"{kernel}_{self.name}", kernel, self.load, ("chunk", "byte"), self.numbers, HOPPER
        )


POINT = Filter(1, 0)
SAME, HALF, THIRD = Filter(), Filter(stride=2), Filter(stride=3)
DILATED, WIDE = Filter(padding=2, dilation=2), Filter(5, 2, 2)


def column(
    name: str,
    tensor: Tensor,
    filters: tuple[Filter, ...],
    start: tuple[int, ...],
    taps: tuple[int, ...],
    channels: int,
    pixels: int,
    span: int = 16,
) -> Im2col:
    return Im2col(
        name,
        tensor,
        tuple(f.lower for f in filters),
        tuple(f.upper for f in filters),
        tuple(f.stride for f in filters),
        start,
        tuple(tap * f.dilation for tap, f in zip(taps, filters, strict=True)),
        channels,
        pixels,
        span,
    )


NWC, NHWC, NDHWC = Tensor((8, 9, 3)), Tensor((16, 6, 5, 3)), Tensor((4, 4, 4, 3, 2))
# fmt: off
COLUMNS = [
    column("stride_1", NWC, (SAME,), (0, 3, 0), (2,), 8, 20),
    column("stride_2", NWC, (HALF,), (4, 1, 1), (1,), 4, 16),
    column("stride_3", Tensor((8, 11, 2), "bf16"), (THIRD,), (0, 2, 0), (0,), 8, 8),
    column("tap_0_0", NHWC, (SAME, SAME), (0, -1, -1, 0), (0, 0), 8, 40),
    column("tap_2_1", NHWC, (SAME, SAME), (8, 2, 3, 1), (2, 1), 8, 40),
    column("past_the_end", Tensor((8, 5, 4, 2)), (POINT, POINT), (0, 1, 2, 1), (0, 0), 4, 24),
    column("channels_outside", Tensor((12, 5, 4, 2)), (POINT, POINT), (8, 0, 0, 0), (0, 0), 8, 16),
    column("dilation_2", Tensor((8, 9, 8, 2)), (DILATED, DILATED), (0, 3, 2, 0), (2, 1), 8, 24),
    column("stride_2", Tensor((8, 7, 7, 2)), (HALF, HALF), (0, 1, -1, 0), (1, 2), 8, 24),
    column("stride_2_tap_5", Tensor((8, 9, 7, 2)), (WIDE, WIDE), (0, 2, 4, 0), (4, 3), 8, 16),
    column("stride_3", Tensor((8, 10, 11, 3)), (THIRD, THIRD), (0, 5, 2, 0), (2, 0), 4, 24),
    column("stride_2_1", Tensor((8, 9, 5, 2)), (HALF, Filter(3, 0)), (0, 3, 1, 0), (2, 1), 8, 24),
    column("swizzle_128", Tensor((72, 6, 5, 2), "bf16"), (SAME, SAME), (8, 3, 2, 0), (1, 2), 64, 32, 128),
    column("swizzle_128_tf32", Tensor((40, 6, 5, 2), "tf32"), (SAME, SAME), (8, 3, 2, 0), (1, 2), 32, 32, 128),
    column("swizzle_64", Tensor((16, 8, 7, 2)), (HALF, HALF), (0, 1, 1, 0), (2, 2), 16, 24, 64),
    column("swizzle_32", Tensor((16, 6, 5, 2), "f16"), (Filter(3, 0), Filter(3, 0)), (0, 1, 1, 0), (2, 2), 16, 24, 32),
    column("stride_1", NDHWC, (SAME, SAME, SAME), (0, 1, 1, 1, 0), (2, 1, 0), 4, 40),
    column("stride_2", Tensor((4, 5, 5, 5, 2)), (HALF, HALF, HALF), (0, 1, -1, 1, 0), (1, 2, 0), 4, 24),
    column("stride_3", Tensor((4, 7, 5, 7, 2)), (THIRD, THIRD, THIRD), (0, 2, -1, -1, 0), (2, 0, 1), 4, 16),
]
MULTICASTS = [
    column("", Tensor((8, 9, 5)), (HALF,), (4, 1, 0), (1,), 4, 16),
    column("", Tensor((16, 6, 5, 5)), (SAME, SAME), (0, 2, 3, 0), (2, 1), 16, 32, 64),
    column("", Tensor((4, 4, 4, 3, 5)), (SAME, SAME, SAME), (0, 1, 1, 1, 0), (2, 1, 0), 4, 24),
]
# fmt: on


def im2col_multicast(case: Im2col) -> Probe:
    def part(values: np.ndarray, shift: int) -> np.ndarray:
        return case.column(values, case.start[-1] + shift)

    name = f"tma_im2col_multicast_{len(case.tensor.dims)}d"
    return multicast(name, case.tensor, case.numbers, 1, part)


PROBES = [*(case.probe() for case in COLUMNS), *(im2col_multicast(case) for case in MULTICASTS)]
