"""cp.async under emulation: what it copies, when, and the faults that checked mode reports."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import EARLY, LATE, RANDOM_COMPLETION
from named_kernels import TIMINGS, NamedKernels, values

TILES, THREADS = 5, 64


def run_pipeline(emulator: NamedKernels, kernel: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns the error, the output and what it should be."""
    x = values(TILES * THREADS * 4)
    y = emulator.empty(x.size, np.float32, "y")
    error = emulator.run(kernel, [emulator.upload(x, "x"), y], [TILES])
    mirrored = x.reshape(TILES, THREADS, 4)[:, ::-1].ravel()
    return error, y.array.copy(), mirrored


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_right_pipeline_is_right_and_quiet_under_every_timing(
    copies: NamedKernels, timing: tuple[int, int, int]
) -> None:
    copies.set_timing(*timing)
    error, y, expected = run_pipeline(copies, "cp_async_pipeline")
    assert not error
    np.testing.assert_array_equal(y, expected)


FAULTS = [
    ("missing_wait", r"is not ordered after a cp\.async by thread .* in its commit group 0"),
    ("wait_for_too_few", r"is not ordered after a cp\.async by thread"),
    ("missing_commit", r"is not ordered after a cp\.async by thread"),
    ("missing_barrier", r"is not ordered after a cp\.async by thread|uninitialised shared memory"),
    (
        "overwritten_too_early",
        r"cp\.async write of 16 bytes is not ordered after a read by thread|"
        r"read of 4 bytes is not ordered after a cp\.async by thread .* in its commit group 2",
    ),
]


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_faults_of_a_pipeline_are_reported_under_every_timing(
    checked_copies: NamedKernels, fault: str, message: str, timing: tuple[int, int, int]
) -> None:
    checked_copies.set_timing(*timing)
    error, _, _ = run_pipeline(checked_copies, f"cp_async_pipeline_{fault}")
    pattern = rf"^cp_async_pipeline: block \(0,0,0\) thread \(\d+,0,0\): .*({message})"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


@pytest.mark.parametrize("fault", ["missing_wait", "wait_for_too_few", "missing_commit"])
def test_copies_that_complete_late_show_a_missing_wait_in_the_result(
    plain_copies: NamedKernels, fault: str
) -> None:
    plain_copies.options.cp_async = LATE
    _, y, expected = run_pipeline(plain_copies, f"cp_async_pipeline_{fault}")
    assert np.isnan(y).any() or not np.array_equal(y, expected)


def test_copies_that_complete_early_show_a_missing_barrier_in_the_result(
    plain_copies: NamedKernels,
) -> None:
    # Within a run of one thread to its next wait: only an early copy overtakes the others' reads.
    plain_copies.options.cp_async = EARLY
    error, y, expected = run_pipeline(plain_copies, "cp_async_pipeline_overwritten_too_early")
    assert not error
    assert not np.array_equal(y, expected)


def test_a_thread_that_exits_without_waiting_is_reported(copies: NamedKernels) -> None:
    x, y = copies.upload(values(512, np.uint8), "x"), copies.empty(512, np.uint8, "y")
    error = copies.run("cp_async_copy_16", [x, y], [16, 0, 0, 0])
    pattern = (
        r"cp_async_copy: block \(0,0,0\) thread \(0,0,0\): exits with cp\.async copies not waited"
    )
    assert re.match(pattern, error), error


@pytest.mark.parametrize("completion", [LATE, EARLY, RANDOM_COMPLETION])
@pytest.mark.parametrize(
    ("size", "source_bytes"), [(size, n) for size in (4, 8, 16) for n in range(size + 1)]
)
def test_the_rest_of_a_short_copy_is_zero(
    copies: NamedKernels, size: int, source_bytes: int, completion: int
) -> None:
    copies.options.cp_async = completion
    x = values(32 * size, np.uint8)
    y = copies.empty(x.size, np.uint8, "y")
    error = copies.run(f"cp_async_copy_{size}", [copies.upload(x, "x"), y], [source_bytes, 0, 0, 1])
    assert not error
    expected = x.reshape(32, size).copy()
    expected[:, source_bytes:] = 0
    np.testing.assert_array_equal(y.array.reshape(32, size), expected)


def test_a_copy_of_no_bytes_does_not_read_its_source(checked_copies: NamedKernels) -> None:
    x, y = (
        checked_copies.upload(values(16, np.uint8), "x"),
        checked_copies.empty(512, np.uint8, "y"),
    )
    assert not checked_copies.run("cp_async_copy_16", [x, y], [0, 4096, 0, 1])
    assert not y.array.any()


# numbers of the launch, what the message says
ILLEGAL = [
    ([17, 0, 0, 1], r"cp\.async of 16 bytes with a source of 17 bytes"),
    ([16, 8, 0, 1], r"misaligned cp\.async of 16 bytes from offset 8 of 'x' \(512 bytes\)"),
    ([16, 0, 8, 1], r"the destination of cp\.async at offset 8 of .* not a multiple of 16"),
    ([16, 0, 512, 1], r"the destination of cp\.async of 16 bytes at offset 512 .* outside .* 512"),
]


@pytest.mark.parametrize(("numbers", "message"), ILLEGAL)
def test_illegal_copies_are_refused(copies: NamedKernels, numbers: list[int], message: str) -> None:
    x, y = copies.upload(values(512, np.uint8), "x"), copies.empty(512, np.uint8, "y")
    error = copies.run("cp_async_copy_16", [x, y], numbers)
    pattern = rf"^cp_async_copy: block \(0,0,0\) thread \(0,0,0\): {message}"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


def test_a_source_out_of_bounds_is_reported(checked_copies: NamedKernels) -> None:
    x, y = (
        checked_copies.upload(values(500, np.uint8), "x"),
        checked_copies.empty(512, np.uint8, "y"),
    )
    error = checked_copies.run("cp_async_copy_16", [x, y], [16, 0, 0, 1])
    assert "thread (31,0,0): global read of 16 bytes at offset 496 of 'x' (500 bytes)" in error


def test_a_source_that_nobody_wrote_is_reported(checked_copies: NamedKernels) -> None:
    x, y = checked_copies.empty(512, np.uint8, "x"), checked_copies.empty(512, np.uint8, "y")
    error = checked_copies.run("cp_async_copy_16", [x, y], [16, 0, 0, 1])
    assert "read of uninitialised global memory: nobody has written byte 0 of 'x'" in error


@pytest.mark.parametrize("completion", [LATE, EARLY])
def test_copies_are_counted(checked_copies: NamedKernels, completion: int) -> None:
    checked_copies.options.count, checked_copies.options.cp_async = 1, completion
    error, _, _ = run_pipeline(checked_copies, "cp_async_pipeline")
    assert not error
    counters = checked_copies.launches()[-1].counters
    total = TILES * THREADS * 16
    assert counters.global_load_bytes == counters.distinct_load_bytes == total
    assert counters.global_load_sectors == counters.distinct_load_sectors == total // 32
    assert counters.shared_store_bytes == counters.shared_load_bytes == total
