"""The emulator judged by kernels with known faults, and by twins that have none."""

from __future__ import annotations

import concurrent.futures
import ctypes
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from emulator_library import (
    EARLY,
    RANDOM,
    REVERSED,
    ROUND_ROBIN,
    SCHEDULES,
    DeviceArray,
    Emulator,
    library_path,
)
from memory_kernels import N, launch, values

# ---------------------------------------------------------------- planted faults

# kernel, what the message says about the fault
REPORTED_WITH_THREAD = [
    ("reduction_missing_barrier", "race in shared memory|uninitialised shared memory"),
    ("transpose_missing_barrier", "race in shared memory|uninitialised shared memory"),
    ("histogram_missing_barrier", "race in shared memory|uninitialised shared memory"),
    ("exchange_missing_warp_barrier", "race in shared memory|uninitialised shared memory"),
    ("transpose_wrong_shared_index", "race in shared memory"),
    ("transpose_shared_out_of_bounds", r"shared write .* offset 4[23]\d\d is outside .* 4224"),
    ("transpose_store_out_of_bounds", r"global write of 4 bytes at offset 16384 of 'y' \(16384"),
    ("transpose_store_before_start", r"global write of 4 bytes at offset -4 of 'y' \(16384 bytes"),
    ("reduction_load_out_of_bounds", r"global read of 4 bytes at offset 12000 of 'x' \(12000 byte"),
    ("reduction_uninitialised_shared", "uninitialised shared memory: nobody has written byte 8 of"),
    ("reduction_blocks_conflict", r"conflict between blocks: global write at offset 0 of 'y'"),
    ("reduction_without_shared_memory", "uses 128 bytes of dynamic shared memory.* provides 0"),
    ("collectives_divergent", "divergent collectives"),
    ("collectives_absent_lane", "reads from lane 12 of warp [01], which does not take part"),
    ("vector_copy_misaligned", r"misaligned global read of 16 bytes at offset \d+ of 'x'"),
]


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(("kernel", "fault"), REPORTED_WITH_THREAD)
def test_checked_library_names_kernel_block_and_thread_of_a_fault(
    checked: Emulator, kernel: str, fault: str, schedule: int
) -> None:
    checked.options.schedule = schedule
    error, _, _ = launch(checked, kernel)
    pattern = rf"^{kernel}: block \(\d+,\d+,0\) thread \(\d+,\d+,0\): .*({fault})"
    assert re.search(pattern, error), f"{kernel} must be reported as {pattern!r}, got {error!r}"


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
def test_skipped_barrier_is_a_deadlock_that_lists_the_waiting_threads(
    either: Emulator, schedule: int
) -> None:
    either.options.schedule = schedule
    error, _, _ = launch(either, "collectives_skipped_barrier")
    assert re.match(r"collectives_skipped_barrier: block \(0,0,0\): deadlock", error), error
    assert re.search(r"thread \(5,0,0\): in __shfl_xor_sync with mask ffffffff", error), error
    assert re.search(r"to \(63,0,0\): at __syncthreads .* 63 of 64 live threads", error), error


def test_lanes_with_different_masks_are_a_deadlock(either: Emulator) -> None:
    error, _, _ = launch(either, "collectives_different_masks")
    assert "deadlock" in error, error
    assert "thread (3,0,0): in __shfl_xor_sync with mask 0000ffff" in error, error


# Without instrumentation only guard pages and the collectives themselves can tell.
@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        ("transpose_store_out_of_bounds", r"global write at offset 16384 of 'y' \(16384 bytes\)"),
        ("reduction_without_shared_memory", "uses 128 bytes of dynamic shared memory.* provides 0"),
        ("collectives_divergent", "divergent collectives"),
        ("collectives_absent_lane", "reads from lane 12 of warp [01], which does not take part"),
        ("vector_copy_misaligned", "misaligned global read of 16 bytes"),
    ],
)
def test_plain_library_names_the_thread_of_faults_it_can_see(
    plain: Emulator, kernel: str, fault: str
) -> None:
    error, _, _ = launch(plain, kernel)
    pattern = rf"^{kernel}: block \(\d+,\d+,0\) thread \(\d+,\d+,0\): .*({fault})"
    assert re.search(pattern, error), f"{kernel} must be reported as {pattern!r}, got {error!r}"


def test_plain_library_checks_global_accesses_on_request(plain: Emulator) -> None:
    plain.options.check = 1
    error, _, _ = launch(plain, "reduction_blocks_conflict")
    assert re.search(r"conflict between blocks: global write at offset 0 of 'y'", error), error
    x, y = plain.upload(values(63), "x"), plain.empty(62, np.float32, "y")
    error = plain.launch("write_workspace", (1,), (64,), x, y, n=63)
    assert "thread (62,0,0): global write of 4 bytes at offset 248 of 'y'" in error, error


def test_plain_library_notices_a_store_that_stays_inside_the_last_page(plain: Emulator) -> None:
    # The guard page begins 8 bytes after the end of y; the store out of bounds falls between.
    x = plain.upload(values(63), "x")
    y = plain.empty(62, np.float32, "y")
    error = plain.launch("write_workspace", (1,), (64,), x, y, n=63)
    assert error.startswith("write_workspace: global write at offset 248 of 'y' (248 bytes)")


def test_unsynchronised_shared_memory_is_poisoned_in_the_plain_library(plain: Emulator) -> None:
    error, y, _ = launch(plain, "transpose_missing_barrier")
    assert not error
    assert np.isnan(y).any(), "a read before the write must give NaN, or the fault goes unnoticed"


def test_reports_say_how_to_repeat_the_launch(either: Emulator) -> None:
    error, _, _ = launch(either, "collectives_divergent")
    assert "schedule" not in error, "the default needs no mention"
    either.options.schedule, either.options.seed, either.options.tma = RANDOM, 77, EARLY
    error, _, _ = launch(either, "collectives_divergent")
    assert error.splitlines()[-1] == (
        "  (schedule random, seed 77; completion of cp.async late, TMA early, wgmma late)"
    )


@pytest.mark.parametrize("option", ["schedule", "cp_async", "tma", "wgmma"])
def test_options_out_of_range_are_refused(either: Emulator, option: str) -> None:
    setattr(either.options, option, 3)
    error, _, _ = launch(either, "collectives")
    assert error == f"collectives: cannot launch with the emulator's option {option} = 3; 0, 1 or 2"


def test_launch_goes_on_until_max_errors(checked: Emulator) -> None:
    checked.options.max_errors = 5
    error, _, _ = launch(checked, "transpose_wrong_shared_index")
    assert len(error.splitlines()) == 5, f"five races must be listed, got {error!r}"


def test_a_launch_after_a_failed_one_works(either: Emulator) -> None:
    for _ in range(3):
        assert launch(either, "collectives_divergent")[0]
        assert not launch(either, "transpose")[0]


def test_full_local_memory_is_reported(either: Emulator) -> None:
    x, y = either.upload(values(32), "x"), either.empty(32, np.float32, "y")
    assert not either.launch("recursion", (1,), (32,), x, y, operand=10)
    error = either.launch("recursion", (1,), (32,), x, y, operand=10**6)
    assert re.match(r"recursion: block \(0,0,0\) thread \(0,0,0\): .*local memory", error), error


@pytest.mark.parametrize(
    ("grid", "block"), [((1,), (1025,)), ((0,), (32,)), ((1, 65536), (32,)), ((1,), (1, 1, 65))]
)
def test_launches_that_cuda_refuses_are_refused(
    either: Emulator, grid: tuple[int, ...], block: tuple[int, ...]
) -> None:
    error = either.launch("recursion", grid, block)
    assert error.startswith("recursion: cannot launch with"), error


# ---------------------------------------------------------------- uninitialised global memory


def run_workspace(emulator: Emulator, written: int, read: int) -> str:
    x = emulator.upload(values(256), "x")
    workspace = emulator.empty(256, np.float32, "workspace")
    out = emulator.empty(256, np.int32, "out")
    error = emulator.launch("write_workspace", (4,), (64,), x, workspace, n=written)
    assert not error, error
    return emulator.launch("read_workspace", (4,), (64,), None, workspace, out, n=read)


def test_reading_what_an_earlier_launch_wrote_is_fine(checked: Emulator) -> None:
    assert run_workspace(checked, written=200, read=200) == ""


def test_reading_what_no_launch_wrote_is_reported(checked: Emulator) -> None:
    error = run_workspace(checked, written=200, read=201)
    pattern = (
        r"^read_workspace: block \(3,0,0\) thread \(8,0,0\): read of uninitialised global memory: "
        r".*byte 800 of 'workspace' \(1024 bytes\)"
    )
    assert re.search(pattern, error), error


def test_memory_written_by_an_unchecked_launch_counts_as_written(checked: Emulator) -> None:
    x = checked.upload(values(256), "x")
    workspace, out = checked.empty(256, np.float32, "y"), checked.empty(256, np.int32, "out")
    checked.options.check = 0
    assert not checked.launch("write_workspace", (4,), (64,), x, workspace, n=256)
    checked.options.check = 1
    assert not checked.launch("read_workspace", (4,), (64,), None, workspace, out, n=256)


# ---------------------------------------------------------------- correct kernels

CORRECT = ["reduction", "transpose", "histogram", "exchange", "narrow_elements", "collectives"]


def expected(kernel: str) -> np.ndarray | None:
    if kernel == "transpose":
        return values(N * N).reshape(N, N).T.ravel()
    if kernel == "histogram":
        return np.bincount(values(3000).astype(int) % 64, minlength=64).astype(np.int32)
    if kernel == "exchange":
        return values(64).reshape(-1, 2)[:, ::-1].ravel()
    if kernel == "reduction":  # small integers: exact in any order
        rows = np.pad(values(3000), (0, 1024 * 3 - 3000)).reshape(3, 4, 256)
        return rows.sum(axis=(0, 2), dtype=np.float32)
    return None


@pytest.mark.parametrize("kernel", CORRECT)
def test_correct_kernels_agree_bitwise_over_twenty_schedules(either: Emulator, kernel: str) -> None:
    results = set()
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, y, counts = launch(either, kernel)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        results.add((y.tobytes(), counts.tobytes()))
        wanted = expected(kernel)
        if wanted is not None:
            got = counts if kernel == "histogram" else y
            np.testing.assert_array_equal(got, wanted, err_msg=f"{kernel} computes wrong values")
    assert len(results) == 1, f"{kernel} gave {len(results)} different results over the schedules"


@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("operand", [0, 1, 3, 7, 9, 17, 31])
def test_shuffles_read_the_lane_that_ptx_defines(
    either: Emulator, width: int, operand: int
) -> None:
    y = either.empty(128, np.float32, "y")
    assert not either.launch(f"shuffles_width_{width}", (1,), (32,), y=y, operand=operand)
    wanted = []
    for mode in ("index", "up", "down", "xor"):
        for lane in range(32):
            first, end = lane // width * width, lane // width * width + width
            source = {
                "index": first + operand % width,
                "up": lane - operand if lane - operand >= first else lane,
                "down": lane + operand if lane + operand < end else lane,
                "xor": lane ^ operand if lane ^ operand < end else lane,
            }[mode]
            wanted.append(source)
    np.testing.assert_array_equal(y.array, np.array(wanted, np.float32))


def test_integer_atomics_compute_what_cuda_defines(either: Emulator) -> None:
    initial = np.zeros(10, np.int32)
    initial[3] = -1
    counts = either.upload(initial, "counts")
    either.options.schedule = ROUND_ROBIN
    assert not either.launch("atomics", (1,), (64,), counts=counts)
    xor = int(np.bitwise_xor.reduce(np.arange(64)))
    wanted = [64 * 63 // 2, -63, 0, ~0xFF, 0xFF, xor, 64, 63]
    assert counts.array[:8].tolist() == wanted
    assert counts.array[8:].view(np.uint64)[0] == 64 << 33


def test_device_memory_has_the_alignment_asked_for(either: Emulator) -> None:
    for misalignment in (0, 1, 2, 16, 255):
        for size in (0, 1, 255, 4096, 5000, 100_000):
            address = either.api.device_malloc(size, misalignment, b"t", 0)
            assert address % 256 == misalignment
            memory = np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)
            assert (memory == 0xFF).all(), "uninitialised memory must hold NaN patterns"
            memory[:] = 0  # also when it is reused
            either.api.device_free(address)


# ---------------------------------------------------------------- living in a process


def test_several_python_threads_may_launch_at_once(either: Emulator) -> None:
    source = either.upload(values(N * N), "x")
    wanted = expected("transpose")
    outputs = [either.empty(N * N, np.float32, f"y{i}") for i in range(4)]

    def work(y: DeviceArray) -> list[str]:
        grid, block = (N // 32, N // 32), (32, 8)
        return [either.launch("transpose", grid, block, source, y, n=N) for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        errors = [error for result in pool.map(work, outputs) for error in result if error]
    assert errors == []
    for y in outputs:
        np.testing.assert_array_equal(y.array, wanted)


def test_the_previous_fault_handler_comes_back(either: Emulator) -> None:
    libc = ctypes.CDLL(None)

    def current_handler() -> bytes:
        action = ctypes.create_string_buffer(256)
        assert libc.sigaction(signal.SIGSEGV, None, action) == 0
        return action.raw[: ctypes.sizeof(ctypes.c_void_p)]  # struct sigaction begins with it

    before = current_handler()
    assert launch(either, "transpose_store_out_of_bounds")[0]
    assert current_handler() == before


def test_launches_work_after_fork_and_the_process_ends_cleanly(either: Emulator) -> None:
    name = "libemulator_test_kernels" + ("_checked" if either.api.checked else "") + ".so"
    script = f"""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from emulator_library import Emulator
        from memory_kernels import launch
        emulator = Emulator.open(Path({str(library_path(name))!r}))
        emulator.reset()
        emulator.options.workers = 3
        for _ in range(20):
            assert not launch(emulator, "transpose")[0]
        child = os.fork()
        for _ in range(20):
            assert not launch(emulator, "transpose")[0]
        if child == 0:
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0, "the forked child failed"
        """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
