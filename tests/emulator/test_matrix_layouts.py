"""ldmatrix, stmatrix, mma.sync and wgmma against layouts that were written down independently (matrix_tables.py)."""

from __future__ import annotations

import numpy as np
import pytest
from matrix_tables import (
    M8N8K4_F64,
    M16N8K8,
    M16N8K8_TF32,
    M16N8K16,
    WGMMA_A,
    WGMMA_A_TF32,
    Instruction,
    Layout,
    Operand,
    wgmma_accumulators,
)
from named_kernels import NamedKernels

RANDOM = np.random.default_rng(11)


def integers(*shape: int) -> np.ndarray:
    """Small integers: exact in every type and in every order of additions."""
    return RANDOM.integers(-4, 5, shape).astype(np.float64)


def bits_of(values: np.ndarray, kind: str) -> np.ndarray:
    """The bits of the elements, as 16-bit, 32-bit or 64-bit words."""
    if kind == "bf16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    return values.astype(np.float64 if kind == "f64" else np.float32)


def fragment(matrix: np.ndarray, layout: Layout, kind: str) -> np.ndarray:
    """The registers of the threads; 16-bit elements in pairs, the lower one first."""
    rows, columns = layout.coordinates()
    return np.ascontiguousarray(bits_of(matrix[rows, columns], kind))


# ---------------------------------------------------------------- ldmatrix, stmatrix


def held_by_lane(matrices: np.ndarray, transposed: bool) -> np.ndarray:
    """Elements by [lane, matrix, half]: lane l has 2 (l % 4) and the next of row l / 4 (of column l / 4)."""
    lane = np.arange(32)[:, None, None]
    matrix = np.arange(len(matrices))[None, :, None]
    major, minor = lane // 4, 2 * (lane % 4) + np.arange(2)[None, None, :]
    return matrices[matrix, minor, major] if transposed else matrices[matrix, major, minor]


@pytest.mark.parametrize("suffix", ["", "_trans"])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("direction", ["ldmatrix", "stmatrix"])
def test_ldmatrix_and_stmatrix_hold_the_elements_that_ptx_names(
    either_matrix: NamedKernels, direction: str, count: int, suffix: str
) -> None:
    rows = RANDOM.permutation(64)[:32] * 16  # byte addresses, in no order
    matrices = RANDOM.integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
    memory = np.zeros((64, 8), np.uint16)
    memory[rows[: count * 8] // 16] = matrices.reshape(-1, 8)
    registers = np.ascontiguousarray(held_by_lane(matrices, suffix != "")).view(np.uint32)
    name = f"{direction}_x{count}{suffix}"
    addresses = either_matrix.upload(rows.astype(np.uint32), "rows")
    if direction == "ldmatrix":
        source = either_matrix.upload(memory.ravel().view(np.uint32), "memory")
        expected = registers.ravel()
    else:
        source = either_matrix.upload(registers.ravel(), "registers")
        expected = memory.ravel().view(np.uint32)
    out = either_matrix.empty(expected.size, np.uint32, "out")
    assert not either_matrix.run(name, (source, addresses, None, out))
    np.testing.assert_array_equal(out.array, expected, err_msg=name)


@pytest.mark.parametrize("suffix", ["", "_trans"])
def test_ldmatrix_tile_is_its_instructions_one_by_one(
    either_matrix: NamedKernels, suffix: str
) -> None:
    rows = np.stack([RANDOM.permutation(64)[:32], RANDOM.permutation(64)[:32]], axis=1)  # by lane
    memory = RANDOM.integers(0, 2**16, (64, 8)).astype(np.uint16)
    expected = [held_by_lane(memory[rows[:, i]].reshape(4, 8, 8), suffix != "") for i in range(2)]
    source = either_matrix.upload(memory.ravel().view(np.uint32), "memory")
    addresses = either_matrix.upload((rows * 16).astype(np.uint32).ravel(), "rows")
    out = either_matrix.empty(256, np.uint32, "out")
    assert not either_matrix.run(f"ldmatrix_tile{suffix}", (source, addresses, None, out))
    registers = np.ascontiguousarray(np.stack(expected, axis=1)).view(np.uint32)
    np.testing.assert_array_equal(out.array, registers.ravel())


# ---------------------------------------------------------------- mma.sync

MMA = {
    "m16n8k16_bf16": (M16N8K16, "bf16"),
    "m16n8k16_f16": (M16N8K16, "f16"),
    "m16n8k8_bf16": (M16N8K8, "bf16"),
    "m16n8k8_tf32": (M16N8K8_TF32, "tf32"),
    "m8n8k4_f64": (M8N8K4_F64, "f64"),
}


def run_mma(
    emulator: NamedKernels,
    name: str,
    instruction: Instruction,
    kind: str,
    tiles: tuple[int, int],
) -> None:
    m_tiles, n_tiles = tiles
    a = integers(m_tiles, instruction.m, instruction.k)
    b = integers(n_tiles, instruction.n, instruction.k)
    c = integers(m_tiles, n_tiles, instruction.m, instruction.n)
    accumulator = "f64" if kind == "f64" else "f32"

    def upload(matrices: np.ndarray, layout: Layout, element: str, label: str) -> object:
        tiles = matrices.reshape(-1, *matrices.shape[-2:])
        registers = np.stack([fragment(tile, layout, element) for tile in tiles], axis=1)
        return emulator.upload(np.ascontiguousarray(registers).ravel().view(np.uint32), label)

    out = emulator.empty(c.size, np.float64 if kind == "f64" else np.float32, "out")
    buffers = (
        upload(c, instruction.c, accumulator, "c"),
        upload(a, instruction.a, kind, "a"),
        upload(b, instruction.b, kind, "b"),
        out,
    )
    assert not emulator.run(name, buffers)
    rows, columns = instruction.c.coordinates()
    expected = c + np.einsum("imk,jnk->ijmn", a, b)
    by_lane = expected[:, :, rows, columns].transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(out.array, by_lane.ravel(), err_msg=name)


@pytest.mark.parametrize("name", MMA)
def test_mma_multiplies_the_fragments_that_ptx_describes(
    either_matrix: NamedKernels, name: str
) -> None:
    run_mma(either_matrix, f"mma_{name}", *MMA[name], (1, 1))


@pytest.mark.parametrize("name", MMA)
def test_a_warp_tile_is_its_products_one_by_one(either_matrix: NamedKernels, name: str) -> None:
    run_mma(either_matrix, f"mma_tile_{name}", *MMA[name], (3, 2))


# ---------------------------------------------------------------- wgmma

KIND_BYTES = {"bf16": 2, "f16": 2, "tf32": 4}


def place(memory: np.ndarray, addresses: np.ndarray, values: np.ndarray, kind: str) -> None:
    """Stores elements at byte addresses, each of which is used once."""
    element = KIND_BYTES[kind]
    assert len(np.unique(addresses)) == addresses.size, "the layout overlaps itself"
    memory.view(np.uint16 if element == 2 else np.float32)[addresses // element] = bits_of(
        values, kind
    )


def operand(mn_major: bool, bits: int, extent: int) -> Operand:
    """Strides with room to spare, so that none can be mistaken for another."""
    width = 16 << bits
    if not bits:
        return Operand(mn_major, bits, leading=128 * (extent // 8) + 256, stride=128)
    if mn_major:
        return Operand(mn_major, bits, leading=32 * width, stride=16 * width)
    return Operand(mn_major, bits, leading=16, stride=8 * width + 1024)


def run_wgmma(
    emulator: NamedKernels,
    kind: str,
    n: int,
    a_layout: Operand | None,
    b_layout: Operand,
    step: int = 0,
    accumulate: bool = True,
) -> None:
    depth = 32 // KIND_BYTES[kind]
    a, b, d = integers(64, depth), integers(n, depth), integers(64, n)
    memory = RANDOM.integers(0, 256, 96 * 1024).astype(np.uint8)
    a_start, b_start = 32 * step, 20480 + 32 * step
    majors = "_mn" if b_layout.mn_major else "_k"
    fragments = None
    if a_layout is None:
        name = f"wgmma_rs_{kind}_n{n}{majors}"
        layout = WGMMA_A_TF32 if kind == "tf32" else WGMMA_A
        fragments = emulator.upload(fragment(a, layout, kind).ravel().view(np.uint32), "a")
    else:
        name = f"wgmma_ss_{kind}_n{n}{'_mn' if a_layout.mn_major else '_k'}{majors}"
        place(memory, a_layout.addresses(a_start, 64, depth, KIND_BYTES[kind]), a, kind)
    place(memory, b_layout.addresses(b_start, n, depth, KIND_BYTES[kind]), b, kind)
    accumulators = wgmma_accumulators(n)
    buffers = (
        emulator.upload(fragment(d, accumulators, "f32").ravel(), "d"),
        fragments,
        emulator.upload(memory.view(np.uint32), "operands"),
        emulator.empty(64 * n, np.float32, "out"),
    )
    descriptor_a = a_layout.descriptor(a_start) if a_layout else 0
    numbers = (descriptor_a, b_layout.descriptor(b_start), int(accumulate), memory.size // 4)
    assert not emulator.run(name, buffers, numbers)
    rows, columns = accumulators.coordinates()
    expected = a @ b.T + (d if accumulate else 0)
    np.testing.assert_array_equal(
        buffers[3].array.reshape(rows.shape), expected[rows, columns], err_msg=name
    )


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
@pytest.mark.parametrize("b_mn", [False, True])
@pytest.mark.parametrize("a_mn", [False, True])
@pytest.mark.parametrize("n", [8, 24, 64, 136, 256])
def test_wgmma_reads_every_layout_and_swizzle(
    plain_matrix: NamedKernels, n: int, a_mn: bool, b_mn: bool, bits: int
) -> None:
    run_wgmma(plain_matrix, "bf16", n, operand(a_mn, bits, 64), operand(b_mn, bits, n))


@pytest.mark.parametrize("bits", [(0, 3), (1, 2), (2, 1), (3, 0)])
def test_the_operands_of_a_wgmma_may_be_swizzled_differently(
    either_matrix: NamedKernels, bits: tuple[int, int]
) -> None:
    run_wgmma(either_matrix, "f16", 64, operand(True, bits[0], 64), operand(False, bits[1], 64))


@pytest.mark.parametrize(("bits", "step"), [(3, 1), (3, 2), (3, 3), (2, 1)])
def test_a_step_along_k_only_adds_to_the_start_address(
    either_matrix: NamedKernels, bits: int, step: int
) -> None:
    run_wgmma(either_matrix, "bf16", 64, operand(False, bits, 64), operand(False, bits, 64), step)


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
@pytest.mark.parametrize("n", [8, 64, 256])
def test_wgmma_of_tf32(either_matrix: NamedKernels, n: int, bits: int) -> None:
    run_wgmma(either_matrix, "tf32", n, operand(False, bits, 64), operand(False, bits, n))
    run_wgmma(either_matrix, "tf32", n, None, operand(False, bits, n))


@pytest.mark.parametrize("b_mn", [False, True])
@pytest.mark.parametrize(("kind", "n"), [("bf16", 8), ("bf16", 64), ("bf16", 256), ("f16", 64)])
def test_wgmma_takes_a_from_registers(
    either_matrix: NamedKernels, kind: str, n: int, b_mn: bool
) -> None:
    run_wgmma(either_matrix, kind, n, None, operand(b_mn, 3, n))


def test_scale_d_of_zero_ignores_what_the_accumulators_held(either_matrix: NamedKernels) -> None:
    run_wgmma(
        either_matrix, "bf16", 64, operand(False, 3, 64), operand(False, 3, 64), accumulate=False
    )


# ---------------------------------------------------------------- numbers


def one_product(emulator: NamedKernels, name: str, kind: str, a: float, b: float) -> float:
    """a b by mma.sync m16n8k8 of tf32 or m16n8k16: both in the first column of K."""
    instruction, _ = MMA[name]
    left, right = np.zeros((16, instruction.k)), np.zeros((8, instruction.k))
    left[0, 0], right[0, 0] = a, b
    out = emulator.empty(128, np.float32, "out")
    buffers = (
        emulator.upload(np.zeros(128, np.float32), "c"),
        emulator.upload(fragment(left, instruction.a, kind).ravel().view(np.uint32), "a"),
        emulator.upload(fragment(right, instruction.b, kind).ravel().view(np.uint32), "b"),
        out,
    )
    assert not emulator.run(f"mma_{name}", buffers)
    return float(out.array[0])


def test_tf32_operands_are_truncated_to_ten_bits_of_mantissa(either_matrix: NamedKernels) -> None:
    below_two = float(np.float32(2 - 2**-23))
    assert one_product(either_matrix, "m16n8k8_tf32", "tf32", below_two, 1.0) == 2 - 2**-10
    assert one_product(either_matrix, "m16n8k8_tf32", "tf32", -below_two, 1.0) == -(2 - 2**-10)


@pytest.mark.parametrize("value", [2.0**-24, 2.0**-15, 65504.0, -1.5, float("inf")])
def test_float16_operands_keep_their_value(either_matrix: NamedKernels, value: float) -> None:
    """Subnormal numbers and infinity included."""
    assert one_product(either_matrix, "m16n8k16_f16", "f16", value, 1.0) == value
