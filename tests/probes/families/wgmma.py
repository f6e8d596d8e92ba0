"""wgmma and the descriptors of its operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tests.probes.layouts import (
    SWIZZLE_CODES,
    Operand,
    fragment_a,
    k_major,
    mn_major,
    packed,
    swizzled,
    warpgroup_accumulators,
)
from tests.probes.probe import (
    HOPPER,
    Probe,
    Vectors,
    bfloat16_bits,
    float16_bits,
    float32_bits,
    random,
    words,
)

# bits of exact numbers, K of one instruction
TYPES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {
    "bf16": (bfloat16_bits, 16),
    "f16": (float16_bits, 16),
    "tf32": (float32_bits, 8),
}
NAN, THREE = 0x7FC00000, 0x40400000


@dataclass(frozen=True)
class Place:
    """Where an operand lies: swizzle span (16: none), MN-major or K-major, in which order its pieces follow, and
    behind how many other rows."""

    span: int = 128
    mn_major: bool = False
    unusual: bool = False
    behind: int = 0

    def __str__(self) -> str:
        order = "u" * self.unusual + f"b{self.behind}" * bool(self.behind)
        return f"{'mn' if self.mn_major else 'k'}{self.span}{order}"

    def operand(self, elements: np.ndarray) -> Operand:
        if self.mn_major:
            return mn_major(elements, self.span, pieces_first=self.unusual)
        return k_major(elements, self.span, 2 if self.unusual else 1, self.behind)


@dataclass(frozen=True)
class Product:
    """D = A B, or 3 + A B: `steps` instructions of m64nNk16 (tf32: k8)."""

    type: str
    n: int
    steps: int
    a: Place | None  # None: in registers
    b: Place
    accumulate: bool = False

    @property
    def depth(self) -> int:
        return self.steps * TYPES[self.type][1]

    @property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """A by [row, k] and B by [column, k]; the same for all products of a shape."""
        return random(70, -2, 3, 64, self.depth), random(71, -1, 2, 256, self.depth)[: self.n]

    def operands(self) -> tuple[Operand | None, Operand]:
        bits, _ = TYPES[self.type]
        a, b = self.matrices
        return self.a and self.a.operand(bits(a)), self.b.operand(bits(b))

    def registers(self) -> np.ndarray:
        """A's registers by [step, thread, register]: warp w holds a fragment of rows 16 w to 16 w + 15."""
        bits, k = TYPES[self.type]
        row, column = fragment_a(16, k, 32 // (8 * bits(np.zeros(1)).itemsize))
        elements = bits(self.matrices[0])
        warps = [
            [elements[16 * warp + row, step * k + column] for warp in range(4)]
            for step in range(self.steps)
        ]
        held = np.array(warps)
        held = packed(held) if held.shape[-1] == 2 else held[..., 0]
        return held.reshape(self.steps, 128, -1)

    @property
    def numbers(self) -> tuple[int, ...]:
        a, b = self.operands()

        def offsets(operand: Operand | None) -> list[int]:
            starts = operand.offsets if operand else ()
            return [*starts, *[0] * (8 - len(starts))]

        head = (
            a.image.nbytes // 4 if a else 0,
            b.image.nbytes // 4,
            a.descriptor if a else 0,
            b.descriptor,
            0,
            int(self.accumulate),
            THREE if self.accumulate else NAN,
            0,
        )
        return (*head, *offsets(a), *offsets(b))

    def inputs(self) -> tuple[np.ndarray, ...]:
        a, b = self.operands()
        if a:
            return a.image, b.image
        return np.zeros(1, np.uint32), b.image, self.registers()

    def describe(self) -> Vectors:
        a, b = self.matrices
        d = (a @ b.T + 3 * self.accumulate).astype(np.float32)
        return Vectors(self.inputs(), warpgroup_accumulators(d))

    def groups(self) -> Vectors:
        """3 + A B of each of two steps apart."""
        a, b = (matrix.reshape(-1, 2, 16) for matrix in self.matrices)
        d = [(a[:, step] @ b[:, step].T + 3).astype(np.float32) for step in range(2)]
        return Vectors(self.inputs(), np.stack([warpgroup_accumulators(part) for part in d]))

    def every_n(self) -> Vectors:
        """For N = 8, 16, ... 16 bits per thread, made of all its accumulators in order."""
        a, b = self.matrices
        out = np.zeros((32, 128), np.uint32)
        for width in range(32):
            held = warpgroup_accumulators(a @ b[: 8 * width + 8].T + 3).astype(np.uint32)
            for register in range(held.shape[1]):
                out[width] = out[width] * np.uint32(31) + held[:, register]
        return Vectors(self.inputs(), out & np.uint32(0xFFFF))

    def probe(self) -> Probe:
        sides = "rs" if self.a is None else "ss"
        transposed = "_ta" * bool(self.a and self.a.mn_major) + "_tb" * self.b.mn_major
        kernel = f"wgmma_{sides}_{self.type}_n{self.n}"
        places = f"_{self.a}" * bool(self.a) + f"_{self.b}"
        return Probe(
            kernel + places + "_add" * self.accumulate,
            kernel + transposed,
            self.describe,
            ("thread", "register"),
            self.numbers,
            HOPPER,
        )


def descriptors() -> Vectors:
    """Address, leading and stride bytes, swizzle; the descriptors' halves, and the address swizzled."""
    sets = np.zeros((16, 4), np.int64)
    sets[:, 0] = random(72, 0, 227 * 64, 16) * 16
    sets[:, 1] = random(73, 1, 1 << 10, 16) * 16
    sets[:, 2] = random(74, 1, 1 << 10, 16) * 16
    sets[:, 3] = np.arange(16) % 4
    out = np.zeros((16, 5), np.int64)
    for row, (address, leading, stride, swizzle) in enumerate(sets.tolist()):
        span = 16 << swizzle
        bits = address >> 4 | (leading >> 4) << 16 | (stride >> 4) << 32
        bits |= SWIZZLE_CODES[span] << 62
        out[row] = bits & 0xFFFFFFFF, bits >> 32, bits & 0xFFFFFFFF, bits >> 32, 0
        out[row, 4] = swizzled(np.int64(address), span)
    return Vectors((words(sets),), words(out))


SPANS = (16, 32, 64, 128)
K128, MN128 = Place(), Place(mn_major=True)


def ss(type: str, n: int, a: Place, b: Place, accumulate: bool = False) -> Product:
    return Product(type, n, 2 if n >= 200 else 4, a, b, accumulate)


def rs(type: str, n: int, b: Place, accumulate: bool = False) -> Product:
    return Product(type, n, 2, None, b, accumulate)


PRODUCTS = [
    # Every place of each operand, first both alike, then one beside an ordinary other.
    *(ss("bf16", 64, Place(span), Place(span)) for span in SPANS),
    # Rows of pixels under other taps of a 3x3: a tile that starts inside 128 bytes.
    *(ss("bf16", 64, Place(16, behind=rows), K128) for rows in (1, 18, 34)),
    *(ss("bf16", 64, Place(span, unusual=True), K128) for span in SPANS),
    *(ss("bf16", 64, K128, Place(span, unusual=True), True) for span in SPANS),
    *(ss("bf16", 64, Place(span, True), K128) for span in SPANS),
    *(ss("bf16", 64, K128, Place(span, True)) for span in SPANS),
    *(ss("bf16", 64, Place(span, True), Place(span, True, True)) for span in SPANS),
    *(ss("bf16", 128, K128, Place(span, True)) for span in SPANS),
    ss("bf16", 128, K128, Place(128, True, True), True),
    *(ss("tf32", 64, Place(span), Place(span)) for span in SPANS),
    # The ends of the range of N, and widths that are no power of two.
    ss("bf16", 8, K128, K128),
    ss("bf16", 136, K128, Place(64)),
    ss("bf16", 256, Place(32), K128),
    ss("f16", 64, K128, K128),
    ss("f16", 64, MN128, MN128, True),
    ss("tf32", 24, K128, K128, True),
    ss("tf32", 256, K128, K128),
    rs("bf16", 8, K128),
    rs("bf16", 64, K128, True),
    *(rs("bf16", 64, Place(span, True)) for span in SPANS),
    rs("bf16", 200, Place(64)),
    rs("f16", 96, Place(32)),
    rs("f16", 128, MN128, True),
    rs("tf32", 48, K128, True),
]
GROUPS = Product("bf16", 32, 2, Place(64), Place(64), True)


def every_n(sides: str, type: str) -> Probe:
    product = Product(type, 256, 1, Place(32) if sides == "ss" else None, Place(32), True)
    name = f"wgmma_{sides}_{type}_every_n"
    return Probe(name, name, product.every_n, ("N / 8 - 1", "thread"), product.numbers, HOPPER)


PROBES = [
    *(product.probe() for product in PRODUCTS),
    Probe(
        "wgmma_groups",
        "wgmma_groups",
        GROUPS.groups,
        ("group", "thread", "register"),
        GROUPS.numbers,
        HOPPER,
    ),
    Probe("smem_descriptors", "smem_descriptors", descriptors, ("set", "word"), (), HOPPER),
    *(every_n(sides, type) for type in TYPES for sides in ("ss", "rs")),
]
