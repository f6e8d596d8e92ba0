"""Matrix products under every timing, and the message for each thing that a kernel can do wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import EARLY, LATE, RANDOM_COMPLETION
from named_kernels import TIMINGS, NamedKernels

SLICES = 4


def run_product(emulator: NamedKernels, kernel: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns the error, the output and what it should be; small integers are exact."""
    random = np.random.default_rng(5)
    x = random.integers(-4, 5, (64, SLICES, 64)).astype(np.float32)
    w = random.integers(-4, 5, (32, SLICES, 64)).astype(np.float32)
    expected = np.zeros((64, 32), np.float32)
    for s in range(SLICES):
        if kernel.startswith("registers"):
            expected *= 2
        expected += x[:, s] @ w[:, s].T
    bfloat16 = [(operand.view(np.uint32) >> 16).astype(np.uint16) for operand in (x, w)]
    d = emulator.empty(64 * 32, np.float32, "d")
    inputs = (emulator.upload(bfloat16[0], "x"), emulator.upload(bfloat16[1], "w"))
    error = emulator.run(kernel, (*inputs, d), (SLICES,))
    return error, d.array.reshape(64, 32).copy(), expected


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize("kernel", ["shared", "registers", "uneven"])
def test_right_products_are_right_and_quiet_under_every_timing(
    either_matrix: NamedKernels, kernel: str, timing: tuple[int, int, int]
) -> None:
    either_matrix.set_timing(*timing)
    error, d, expected = run_product(either_matrix, kernel)
    assert not error
    np.testing.assert_array_equal(d, expected)


# kernel, what the message says in checked mode under every timing
PRODUCT_FAULTS = [
    (
        "shared_missing_proxy_fence",
        "missing fence.proxy.async: operand read by wgmma of shared memory at byte .* follows a "
        "write by thread",
    ),
    (
        "shared_missing_barrier",
        "operand read by wgmma of 16 bytes is not ordered after a write by thread|"
        "operand read by wgmma of uninitialised shared memory",
    ),
    (
        "shared_missing_wait_in_loop",
        "is not ordered after the operand read of a wgmma by the warpgroup of thread .* in its "
        "commit group 0",
    ),
    (
        "shared_missing_barrier_after_wait",
        "is not ordered after the operand read of a wgmma by the warpgroup",
    ),
    ("shared_missing_commit", "wgmma.wait_group 1 while wgmma operations are not committed"),
    ("shared_missing_last_wait", "exits with wgmma operations not waited for: 3 of its 4"),
    ("shared_missing_fence", "wgmma without a wgmma.fence before the first one"),
    ("registers_fragment_after_fence", r"A register of wgmma .* was modified after wgmma\.fence"),
    ("registers_fragment_changed", "A registers of a wgmma in flight were modified before"),
    (
        "registers_scaled_after_fence",
        r"accumulator register of wgmma \(element 0\) was modified after wgmma\.fence",
    ),
    (
        "registers_scaled_without_fence",
        r"accumulator register of wgmma \(element 0\) was modified after wgmma\.fence",
    ),
    (
        "registers_accumulator_written",
        r"accumulator register of a wgmma in flight \(element 5\) was written before wgmma\.wait",
    ),
]


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("kernel", "message"), PRODUCT_FAULTS)
def test_faults_of_a_product_are_reported_under_every_timing(
    checked_matrix: NamedKernels, kernel: str, message: str, timing: tuple[int, int, int]
) -> None:
    checked_matrix.set_timing(*timing)
    error, _, _ = run_product(checked_matrix, kernel)
    pattern = rf"^wgmma_product: block \(0,0,0\) thread \(\d+,0,0\): .*({message})"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


@pytest.mark.parametrize("completion", [LATE, EARLY, RANDOM_COMPLETION])
@pytest.mark.parametrize("kernel", [kernel for kernel, _ in PRODUCT_FAULTS])
def test_the_process_goes_on_after_many_faults(
    either_matrix: NamedKernels, kernel: str, completion: int
) -> None:
    either_matrix.options.max_errors = 10_000
    either_matrix.options.wgmma = completion
    run_product(either_matrix, kernel)
    error, d, expected = run_product(either_matrix, "shared")
    assert not error
    np.testing.assert_array_equal(d, expected)


def test_accumulators_in_flight_read_as_nan_when_products_complete_late(
    checked_matrix: NamedKernels,
) -> None:
    checked_matrix.options.wgmma = LATE
    error, d, _ = run_product(checked_matrix, "registers_accumulator_read")
    assert not error
    assert np.isnan(d).any(), "a read before the wait must show in the result"


@pytest.mark.parametrize(
    "kernel",
    [
        "shared_missing_commit",
        "shared_missing_last_wait",
        "shared_missing_fence",
        "registers_fragment_changed",
    ],
)
def test_the_plain_library_reports_what_needs_no_instrumentation(
    plain_matrix: NamedKernels, kernel: str
) -> None:
    message = dict(PRODUCT_FAULTS)[kernel]
    error, _, _ = run_product(plain_matrix, kernel)
    assert re.search(message, error), f"must be reported as {message!r}, got {error!r}"


def test_operands_overwritten_before_the_wait_show_when_products_complete_late(
    plain_matrix: NamedKernels,
) -> None:
    for completion, right in ((LATE, False), (EARLY, True)):
        plain_matrix.options.wgmma = completion
        error, d, expected = run_product(plain_matrix, "shared_missing_wait_in_loop")
        assert not error
        assert np.array_equal(d, expected) == right, f"completion {completion}"


# ---------------------------------------------------------------- misuse of one instruction

THREAD = r"block \(0,0,0\) thread \(\d+,0,0\)"
DESCRIPTOR = r"wgmma: descriptor of {} \([0-9a-f]{{16}}\): {}"

# kernel, its number, what the message says in every mode
MISUSES = [
    (
        "ldmatrix_wrong_address",
        8,
        "ldmatrix at offset 152 of shared memory, which is not a multiple of 16",
    ),
    (
        "ldmatrix_wrong_address",
        65536,
        r"ldmatrix of 16 bytes at offset 65680 of shared memory is outside the block's \d+ bytes",
    ),
    ("stmatrix_wrong_address", 4, "stmatrix at offset 148 of shared memory, which is not a mul"),
    ("stmatrix_wrong_address", 65536, "stmatrix of 16 bytes at offset 65680 of shared memory is"),
    ("ldmatrix_different_forms", 0, r"lane \d+ of warp 0 calls ldmatrix\.x4.*, lane \d+ .*\.trans"),
    ("ldmatrix_part_of_a_warp", 0, "ldmatrix needs all 32 lanes .* only lanes fffffdff of warp 0"),
    ("mma_two_shapes", 0, r"calls mma\.sync\.m16n8k16\.bf16 on 1 x 1 tiles, lane 9 mma\.sync\.m16"),
    ("mma_part_of_a_warp", 0, r"mma\.sync needs all 32 lanes .* only lanes fffffdff of warp 0"),
    ("wgmma_wrong_descriptor_a", 1 << 14, DESCRIPTOR.format("A", "reserved bits 14-15 are 1")),
    ("wgmma_wrong_descriptor_b", 1 << 31, DESCRIPTOR.format("B", "reserved bits 30-31 are 2")),
    ("wgmma_wrong_descriptor_b", 1 << 48, DESCRIPTOR.format("B", "reserved bits 46-48 are 4")),
    ("wgmma_wrong_descriptor_a", 1 << 61, DESCRIPTOR.format("A", "reserved bits 52-61 are 512")),
    (
        "wgmma_wrong_descriptor_a",
        3 << 49,
        DESCRIPTOR.format("A", r"base offset \(bits 49-51\) is 3; only 0 is supported"),
    ),
    (
        "wgmma_wrong_descriptor_b",
        64 << 32,
        DESCRIPTOR.format("B", r"stride byte offset \(bits 32-45\) is 0, but it separates groups"),
    ),
    (
        "wgmma_wrong_descriptor_a",
        8,
        DESCRIPTOR.format("A", r"start address 1152 \(bits 0-13\) lies beyond the first 128 bytes"),
    ),
    ("wgmma_wrong_descriptor_b", 0x3C00, r"wgmma: operand B of 16 bytes at offset \d+ of shared"),
    (
        "wgmma_mn_major_swizzled",
        1024 << 16,
        DESCRIPTOR.format("B", r"leading byte offset \(bits 16-29\) is 0.*pieces along M or N"),
    ),
    (
        "wgmma_mn_major_swizzled",
        1024,
        DESCRIPTOR.format("B", r"stride byte offset \(bits 32-45\) is 0.*two groups of 8 along K"),
    ),
    (
        "wgmma_mn_major_unswizzled",
        1024,
        DESCRIPTOR.format("B", r"stride byte offset \(bits 32-45\) is 0.*pieces along M or N"),
    ),
    (
        "wgmma_mn_major_unswizzled",
        128 << 16,
        DESCRIPTOR.format("B", r"leading byte offset \(bits 16-29\) is 0.*two groups of 8 along K"),
    ),
    (
        "wgmma_different_descriptor",
        0,
        r"operands differ between the threads of a warpgroup: descriptor of B [0-9a-f]{16} against",
    ),
    ("wgmma_different_scale", 0, r"operands differ .*: scale-d \d against \d"),
    ("wgmma_different_type", 0, r"operands differ .*: type b?f16 against b?f16"),
    ("wgmma_different_group", 0, r"operands differ .*: commit group \d against \d"),
    (
        "wgmma_different_waits",
        0,
        r"lane \d+ of warp \d calls wgmma\.wait_group \d, lane \d+ wgmma\.wait_group \d",
    ),
    ("wgmma_part_of_a_warp", 0, r"wgmma\.\w+ needs all 32 lanes .* only lanes fffffdff of warp 0"),
    (
        "wgmma_short_warpgroup",
        0,
        "wgmma outside a whole warpgroup: threads 128 to 159 of the block are fewer than 128",
    ),
]


@pytest.mark.parametrize(("kernel", "number", "message"), MISUSES)
def test_misuse_is_reported_in_every_mode(
    either_matrix: NamedKernels, kernel: str, number: int, message: str
) -> None:
    error = either_matrix.run(kernel, (), (number,))
    pattern = rf"^matrix_misuse: {THREAD}: .*{message}"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


@pytest.mark.parametrize("kernel", ["wgmma_warp_left_out", "wgmma_warp_exited"])
def test_a_warp_that_leaves_a_wgmma_out_is_a_deadlock_that_says_so(
    either_matrix: NamedKernels, kernel: str
) -> None:
    error = either_matrix.run(kernel, (), ())
    pattern = (
        r"deadlock, no thread can run:\n  thread \(0,0,0\) to \(95,0,0\): in wgmma\.wait_group for "
        r"a wgmma of commit group 0, which 96 of the 128 threads of the warpgroup have issued"
    )
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


# kernel, its number, what the message says in checked mode
CHECKED_MISUSES = [
    (
        "ldmatrix_not_converged",
        0,
        "ldmatrix needs a converged warp: lanes 00000200 of warp 0 .*__syncwarp",
    ),
    ("wgmma_not_converged", 0, r"wgmma\.fence needs a converged warp: lanes 00000200 of warp 0"),
    ("stmatrix_race", 0, r"race in shared memory at byte 80: write .* by thread \((5|31),0,0\)"),
    (
        "wgmma_two_shapes_without_fence",
        0,
        r"wgmma m64n16k16 on accumulators of a wgmma m64n32k16: a different shape needs a wgmma",
    ),
    (
        "wgmma_two_shapes_in_flight",
        0,
        "wgmma m64n16k16 on accumulators that a wgmma of N = 32 in flight still writes",
    ),
]


@pytest.mark.parametrize("completion", [LATE, EARLY, RANDOM_COMPLETION])
@pytest.mark.parametrize(("kernel", "number", "message"), CHECKED_MISUSES)
def test_misuse_is_reported_in_checked_mode(
    checked_matrix: NamedKernels, kernel: str, number: int, message: str, completion: int
) -> None:
    checked_matrix.options.wgmma = completion
    error = checked_matrix.run(kernel, (), (number,))
    pattern = rf"^matrix_misuse: {THREAD}: .*{message}"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


# The twins without the fault.
@pytest.mark.parametrize(
    ("kernel", "number"),
    [
        ("ldmatrix_wrong_address", 0),
        ("stmatrix_wrong_address", 0),
        ("ldmatrix_not_converged", 1),
        ("wgmma_not_converged", 1),
        ("wgmma_wrong_descriptor_a", 0),
        ("wgmma_mn_major_swizzled", 1024 << 16 | 2048),
        ("wgmma_mn_major_unswizzled", 128 << 16 | 1024),
        ("wgmma_two_shapes", 0),
    ],
)
def test_the_same_without_the_fault_is_quiet(
    either_matrix: NamedKernels, kernel: str, number: int
) -> None:
    assert either_matrix.run(kernel, (), (number,)) == ""


# ---------------------------------------------------------------- counters


def test_matrix_instructions_are_counted(either_matrix: NamedKernels) -> None:
    either_matrix.options.count = 1
    assert not run_product(either_matrix, "shared")[0]
    (record,) = either_matrix.launches()
    steps = SLICES * 4
    assert record.counters.mma_instructions == steps
    assert record.counters.mma_multiply_adds == steps * 64 * 32 * 16


@pytest.mark.parametrize(("kernel", "wavefronts"), [("ldmatrix_x1", 1), ("ldmatrix_x4", 4)])
def test_ldmatrix_of_neighbouring_rows_has_no_bank_conflicts(
    plain_matrix: NamedKernels, kernel: str, wavefronts: int
) -> None:
    plain_matrix.options.count = 1
    memory = plain_matrix.upload(np.zeros(256, np.uint32), "memory")
    out = plain_matrix.empty(128, np.uint32, "out")
    for row_bytes, passes in ((16, 1), (32, 2)):
        rows = np.arange(32, dtype=np.uint32) * row_bytes % 1024
        addresses = plain_matrix.upload(rows, "rows")
        plain_matrix.api.clear_launches()
        assert not plain_matrix.run(kernel, (memory, addresses, None, out))
        (record,) = plain_matrix.launches()
        assert record.counters.shared_wavefronts_ideal == wavefronts
        assert record.counters.shared_wavefronts == wavefronts * passes
        assert record.counters.shared_load_bytes == wavefronts * 128
