"""ldmatrix, stmatrix and mma.sync."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.probes.layouts import LANES, fragment_a, fragment_b, fragment_c, packed
from tests.probes.probe import (
    AMPERE,
    HOPPER,
    Probe,
    Vectors,
    bfloat16_bits,
    float16_bits,
    float32_bits,
    random,
    words,
)

UNTOUCHED = 0xCDCD


def rows_of_lanes() -> np.ndarray:
    """The row of 16 bytes that each lane names: 32 rows in a mixed order."""
    return np.random.Generator(np.random.PCG64(30)).permutation(32)


def held_elements(matrices: int, transposed: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrix, row and column of the elements by [lane, register, part]."""
    matrix = np.arange(matrices)[None, :, None]
    line = (LANES // 4)[:, None, None]
    along = (2 * (LANES % 4))[:, None, None] + np.arange(2)
    row, column = (along, line) if transposed else (line, along)
    return tuple(np.broadcast_arrays(matrix, row, column))


ROWS = np.arange(256, dtype=np.uint16).reshape(32, 8) * 3


def loaded(names: np.ndarray, matrices: int, transposed: bool) -> np.ndarray:
    """The registers of one ldmatrix by [lane, register]."""
    matrix, row, column = held_elements(matrices, transposed)
    return packed(ROWS[names[8 * matrix + row], column])


def ldmatrix(matrices: int, transposed: bool) -> Vectors:
    names = rows_of_lanes()
    return Vectors((ROWS, words(names)), loaded(names, matrices, transposed))


def ldmatrix_tile(matrices: int, transposed: bool) -> Vectors:
    """Three instructions, each with other rows."""
    names = np.stack([np.roll(rows_of_lanes(), 5 * i) for i in range(3)])
    registers = [loaded(own, matrices, transposed) for own in names]
    return Vectors((ROWS, words(names)), np.stack(registers, axis=1))


def stmatrix(matrices: int, transposed: bool) -> Vectors:
    matrix, row, column = held_elements(matrices, transposed)
    elements = random(31, 0, 1 << 10, 32, matrices, 2).astype(np.uint16)
    names = rows_of_lanes()
    rows = np.full((32, 8), UNTOUCHED, np.uint16)
    rows[names[8 * matrix + row], column] = elements
    return Vectors((packed(elements), words(names)), rows)


# shape, elements per 32-bit register, bits of exact numbers
MMA_KINDS = {
    "m16n8k16_bf16": ((16, 8, 16), 2, bfloat16_bits),
    "m16n8k16_f16": ((16, 8, 16), 2, float16_bits),
    "m16n8k8_bf16": ((16, 8, 8), 2, bfloat16_bits),
    "m16n8k8_tf32": ((16, 8, 8), 1, float32_bits),
    "m8n8k4_f64": ((8, 8, 4), 1, lambda values: np.asarray(values, np.float64)),
}


def mma(kind: str, m_tiles: int = 1, n_tiles: int = 1) -> Vectors:
    (m, n, k), per_register, bits = MMA_KINDS[kind]
    accumulator = np.float64 if kind.endswith("f64") else np.float32
    a = random(40, -8, 9, m_tiles * m, k)
    b = random(41, -8, 9, k, n_tiles * n)
    c = random(42, -50, 51, m_tiles * m, n_tiles * n)

    def registers(elements: np.ndarray) -> np.ndarray:
        return packed(elements) if per_register == 2 else elements[..., 0]

    row, column = fragment_a(m, k, per_register)
    a_registers = [registers(bits(a[i * m + row, column])) for i in range(m_tiles)]
    row, column = fragment_b(k, per_register)
    b_registers = [registers(bits(b[row, j * n + column])) for j in range(n_tiles)]
    row, column = fragment_c(m)

    def accumulators(matrix: np.ndarray) -> np.ndarray:
        tiles = [
            matrix[i * m + row, j * n + column] for i in range(m_tiles) for j in range(n_tiles)
        ]
        return np.stack(tiles).astype(accumulator)

    return Vectors(
        (np.stack(a_registers), np.stack(b_registers), accumulators(c)), accumulators(a @ b + c)
    )


def tensor_float32() -> Vectors:
    """Floats as tf32 operands: 10 bits of mantissa, the nearest such number, a tie away from zero."""
    unit = 2.0**-10
    near_one = [
        1 + unit * (i + f) for i in (0, 1, 1023) for f in (0, 0.25, 0.499, 0.5, 0.501, 0.75)
    ]
    near_zero = [2.0**-126 * (1 + unit * f) for f in (0.5, 0.49)]
    largest = float(np.finfo(np.float32).max)
    values = np.array(
        [*near_one, *near_zero, 0.0, np.inf, largest, largest / 2, np.nan], np.float32
    )
    values = np.resize(np.concatenate([values, -values]), 32)
    with np.errstate(over="ignore"):
        # In fp64: scaled so that the kept bits are an integer. np.rint would take ties to even.
        mantissa, exponent = np.frexp(np.abs(values.astype(np.float64)))
        whole = np.floor(mantissa * 2**11 + 0.5)
        magnitude = np.ldexp(whole, exponent - 11).astype(np.float32)
    rounded = np.copysign(magnitude, values).view(np.uint32)
    return Vectors((float32_bits(values),), np.where(np.isnan(values), 0x7FFFFFFF, rounded))


def maximum() -> Vectors:
    """The larger of two floats, +0 before -0; NaN where either is."""
    numbers = [-np.inf, -1.5, -0.0, 0.0, 2.0**-149, np.nan]
    pairs = np.array([(a, b) for a in numbers for b in numbers][:32], np.float32)
    first, second = pairs.T.copy()
    larger = np.where((first > second) | ((first == second) & ~np.signbit(first)), first, second)
    larger = float32_bits(larger.astype(np.float32))
    is_nan = np.isnan(pairs).any(axis=1)
    return Vectors(
        (float32_bits(first), float32_bits(second)), np.where(is_nan, 0x7FFFFFFF, larger)
    )


def matrix_probes(
    instruction: str,
    capability: int,
    describe: Callable[[int, bool], Vectors],
    axes: tuple[str, ...],
) -> list[Probe]:
    return [
        Probe(
            f"{instruction}_x{matrices}{'_trans' * transposed}",
            f"{instruction}_x{matrices}{'_trans' * transposed}",
            lambda matrices=matrices, transposed=transposed: describe(matrices, transposed),
            axes,
            capability=capability,
        )
        for transposed in (False, True)
        for matrices in (1, 2, 4)
    ]


PROBES = [
    Probe("round_to_tensor_float32", "round_to_tensor_float32", tensor_float32, ("lane",)),
    Probe("max_or_nan", "max_or_nan", maximum, ("lane",)),
    *matrix_probes("ldmatrix", AMPERE, ldmatrix, ("lane", "register")),
    *(
        Probe(name, name, describe, ("lane", "instruction", "register"))
        for name, describe in (
            ("ldmatrix_tile_x2_trans", lambda: ldmatrix_tile(2, True)),
            ("ldmatrix_tile_x4", lambda: ldmatrix_tile(4, False)),
        )
    ),
    *matrix_probes("stmatrix", HOPPER, stmatrix, ("row", "element")),
    *(
        Probe(
            f"mma_{kind}", f"mma_{kind}", lambda kind=kind: mma(kind), ("tile", "lane", "register")
        )
        for kind in MMA_KINDS
    ),
    *(
        Probe(
            f"mma_tile_{kind}",
            f"mma_tile_{kind}",
            lambda kind=kind: mma(kind, 2, 3),
            ("tile", "lane", "register"),
        )
        for kind in ("m16n8k16_bf16", "m8n8k4_f64")
    ),
]
