"""TMA of tiles: loads, stores, multicast, the prefetch of their maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tests.probes.families.tma_tensor import STEP, Tensor, in_shared_memory, multicast, with_margin
from tests.probes.layouts import tile
from tests.probes.probe import HOPPER, Probe, Vectors, random


@dataclass(frozen=True)
class Tile:
    name: str
    tensor: Tensor
    box: tuple[int, ...]
    start: tuple[int, ...]
    span: int = 16
    element_strides: tuple[int, ...] = ()

    @property
    def strides(self) -> tuple[int, ...]:
        return self.element_strides or (1,) * len(self.box)

    @property
    def numbers(self) -> tuple[int, ...]:
        steps = [1, *self.strides[1:]]
        count = math.prod(-(-e // s) for e, s in zip(self.box, steps, strict=True))
        words = count * self.tensor.dtype.itemsize // 4
        box = [*self.box, *[1] * (5 - len(self.box))]
        return (*self.tensor.numbers(self.span, self.strides, self.start), words, *box)

    def load(self) -> Vectors:
        values = self.tensor.values(60)
        box = self.tensor.loaded(tile(values, self.box, self.start, self.strides))
        return Vectors((self.tensor.memory(values),), with_margin(in_shared_memory(box, self.span)))

    def store(self) -> Vectors:
        box = random(61, 1, 251, *self.box[::-1]).astype(self.tensor.dtype)
        before = self.tensor.values(62)
        after = before.copy()
        for index in np.ndindex(*box.shape):
            at = tuple(i + first for i, first in zip(index, self.start[::-1], strict=True))
            if all(0 <= i < extent for i, extent in zip(at, after.shape, strict=True)):
                after[at] = box[index]
        memory = self.tensor.memory
        return Vectors((in_shared_memory(box, self.span),), memory(after), memory(before))

    def probe(self, direction: str) -> Probe:
        load = direction == "load"
        return Probe(
            f"tma_{direction}_{len(self.box)}d_{self.name}",
            f"tma_{direction}_{len(self.box)}d",
            self.load if load else self.store,
            ("chunk", "byte") if load else ("row", "byte"),
            self.numbers,
            HOPPER,
        )


# Boxes that lie inside, that stick out on either side, and that have nothing inside.
TILES = [
    Tile("inside", Tensor((64,)), (32,), (16,)),
    Tile("before", Tensor((64,)), (32,), (-8,)),
    Tile("behind", Tensor((60,)), (32,), (40,)),
    Tile("outside", Tensor((64,)), (32,), (64,)),
    Tile("bytes", Tensor((100,), "u8"), (48,), (70,)),
    Tile("inside", Tensor((24, 10)), (8, 4), (4, 3)),
    Tile("corner", Tensor((24, 10), padding=16), (8, 6), (20, 7)),
    Tile("before", Tensor((22, 9), "f64"), (6, 5), (-2, -3)),
    Tile("swizzle_32", Tensor((40, 20), "bf16"), (16, 16), (8, 2), 32),
    Tile("swizzle_64", Tensor((40, 20), "f16"), (32, 16), (-8, 6), 64),
    Tile("swizzle_128", Tensor((70, 30), "bf16", 32), (64, 24), (8, -2), 128),
    Tile("swizzle_128", Tensor((40, 6, 5)), (32, 4, 3), (4, 3, -1), 128),
    Tile("behind", Tensor((12, 6, 5), "bf16"), (8, 3, 2), (8, 5, 4)),
    Tile("swizzle_64", Tensor((20, 7, 6, 3)), (16, 3, 2, 2), (4, 5, -1, 2), 64),
    Tile("before", Tensor((8, 5, 4, 3), "f16", 16), (8, 2, 3, 2), (0, -1, -1, -1)),
    Tile("inside", Tensor((8, 4, 4, 3, 3)), (4, 2, 3, 2, 2), (4, 1, 0, 1, 1)),
    Tile("swizzle_32", Tensor((12, 4, 4, 3, 3)), (8, 3, 2, 2, 2), (4, -1, 3, 2, -1), 32),
]
# Rounded as they are loaded.
ROUNDED = [
    Tile("tf32", Tensor((61, 4), "tf32"), (40, 3), (30, -1)),
    Tile("swizzle_128_tf32", Tensor((60, 30), "tf32"), (32, 24), (-4, -2), 128),
]
STRIDED = [
    Tile("strided", Tensor((24, 20)), (8, 12), (4, 1), element_strides=(1, 3)),
    Tile("strided", Tensor((24, 12, 9), "bf16"), (16, 6, 5), (8, 5, -2), 32, (1, 2, 2)),
]


def store_groups() -> Probe:
    """Three boxes one behind the other."""
    tensor, start, rows = Tensor((24, 20)), (8, 2), 4
    case = Tile("groups", tensor, (8, rows), start)

    def describe() -> Vectors:
        boxes = random(63, 1, 251, 3, rows, 8).astype(tensor.dtype)
        before = tensor.values(64)
        after = before.copy()
        after[2 : 2 + 3 * rows, 8:16] = boxes.reshape(-1, 8)
        return Vectors((boxes,), tensor.memory(after), tensor.memory(before))

    numbers = (*case.numbers, *[0] * (STEP - len(case.numbers)), rows)
    return Probe("tma_store_groups", "tma_store_groups", describe, ("row", "byte"), numbers, HOPPER)


def prefetch() -> Probe:
    case = Tile("", Tensor((24, 10)), (8, 4), (20, 3))
    return Probe("tma_prefetch", "tma_prefetch", case.load, ("chunk", "byte"), case.numbers, HOPPER)


def tile_multicast(case: Tile, step: int) -> Probe:
    def part(values: np.ndarray, shift: int) -> np.ndarray:
        start = (*case.start[:-1], case.start[-1] + shift)
        return in_shared_memory(tile(values, case.box, start, case.strides), case.span)

    name = f"tma_multicast_{len(case.box)}d"
    return multicast(name, case.tensor, case.numbers, step, part)


PROBES = [
    *(case.probe("load") for case in (*TILES, *ROUNDED, *STRIDED)),
    *(case.probe("store") for case in TILES),
    store_groups(),
    prefetch(),
    tile_multicast(Tile("", Tensor((120,)), (32,), (4,)), 30),
    tile_multicast(Tile("", Tensor((24, 20)), (16, 8), (-4, -2), 64), 6),
    tile_multicast(Tile("", Tensor((8, 6, 9), "bf16"), (8, 4, 4), (0, 3, -1)), 2),
    tile_multicast(Tile("", Tensor((8, 3, 3, 6)), (4, 2, 4, 2), (4, 1, -1, 0)), 2),
    tile_multicast(Tile("", Tensor((4, 3, 3, 2, 6)), (4, 2, 2, 2, 2), (0, 1, -1, 1, 1)), 1),
]
