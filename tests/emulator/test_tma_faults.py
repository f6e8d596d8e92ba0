"""Faults of kernels that use TMA, and the message that a developer reads about each."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import EARLY, LATE, RANDOM_COMPLETION
from named_kernels import TIMINGS, NamedKernels, values
from tensor_maps import FLOAT32, Tensor, TiledBox

TILES, ROWS, COLUMNS = 6, 8, 32

# ---------------------------------------------------------------- a pipeline of loads and stores


def run_pipeline(emulator: NamedKernels, kernel: str) -> tuple[str, np.ndarray, np.ndarray]:
    """Returns the error, the output and what it should be."""
    x = values(TILES * ROWS * COLUMNS)
    y = emulator.empty(x.size, np.float32, "y")
    error = emulator.run(kernel, [emulator.upload(x, "x"), y], [TILES])
    return error, y.array.copy(), -x.reshape(-1, COLUMNS)[:, ::-1].ravel()


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_right_pipeline_is_right_and_quiet_under_every_timing(
    copies: NamedKernels, timing: tuple[int, int, int]
) -> None:
    copies.set_timing(*timing)
    error, y, expected = run_pipeline(copies, "tma_pipeline")
    assert not error
    np.testing.assert_array_equal(y, expected)


FULL = r"mbarrier 'full' at offset 30\d\d of shared memory"
LOADED = rf"a TMA load that signals phase \d of {FULL}"
STORED = r"the read of a bulk store by thread \(32,0,0\) in its bulk group \d"

# fault, what checked mode says about it, whatever the timing
PIPELINE_FAULTS = [
    ("missing_init_fence", rf"TMA load on {FULL}, whose initialisation .* is not fenced"),
    (
        "missing_full_wait",
        rf"read of 4 bytes is not ordered after {LOADED}|read of uninitialised shared memory",
    ),
    (
        "missing_empty_wait",
        rf"write by a TMA load of 1024 bytes is not ordered after {LOADED}|"
        rf"mbarrier\.arrive\.expect_tx .* on {FULL}, which takes 0 more arrivals",
    ),
    (
        "missing_expect",
        rf"read of 4 bytes is not ordered after {LOADED}|"
        rf"phase \d of {FULL} completes while 1 TMA loads that signal it are in flight",
    ),
    ("missing_read_wait", rf"write of 4 bytes is not ordered after {STORED}"),
    ("read_wait_for_too_few", rf"write of 4 bytes is not ordered after {STORED}"),
    ("missing_commit", rf"write of 4 bytes is not ordered after {STORED}"),
    (
        "missing_proxy_fence",
        r"missing fence\.proxy\.async: read by a bulk store of shared memory at byte \d+ follows "
        r"a write by thread",
    ),
    (
        "missing_warp_barrier",
        r"read by a bulk store of 128 bytes is not ordered after a write by thread|"
        r"read by a bulk store of uninitialised shared memory",
    ),
    ("missing_last_wait", r"exits with bulk stores not waited for: 5 of its 6 commit groups are"),
]


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("fault", "message"), PIPELINE_FAULTS)
def test_faults_of_a_pipeline_are_reported_under_every_timing(
    checked_copies: NamedKernels, fault: str, message: str, timing: tuple[int, int, int]
) -> None:
    checked_copies.set_timing(*timing)
    error, _, _ = run_pipeline(checked_copies, f"tma_pipeline_{fault}")
    pattern = rf"^tma_pipeline: block \(0,0,0\) thread \(\d+,0,0\): .*({message})"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(("fault", "pending"), [("few", -16), ("many", 16)])
def test_wrong_numbers_of_bytes_are_a_deadlock_that_names_them(
    copies: NamedKernels, fault: str, pending: int, timing: tuple[int, int, int]
) -> None:
    copies.set_timing(*timing)
    error, _, _ = run_pipeline(copies, f"tma_pipeline_expect_too_{fault}")
    assert re.match(r"tma_pipeline: block \(0,0,0\): deadlock, no thread can run:", error), error
    waiting = (
        rf"thread \(32,0,0\) to \(63,0,0\): waiting for parity 0 of {FULL}: .* {pending} bytes"
    )
    assert re.search(waiting, error), error


@pytest.mark.parametrize(
    "fault", ["missing_full_wait", "missing_read_wait", "read_wait_for_too_few"]
)
def test_copies_that_complete_late_show_a_missing_wait_in_the_result(
    plain_copies: NamedKernels, fault: str
) -> None:
    plain_copies.options.tma = LATE
    error, y, expected = run_pipeline(plain_copies, f"tma_pipeline_{fault}")
    assert error or not np.array_equal(y, expected)


@pytest.mark.parametrize("completion", [LATE, EARLY, RANDOM_COMPLETION])
def test_exit_without_waiting_for_stores_is_reported_without_checks(
    plain_copies: NamedKernels, completion: int
) -> None:
    plain_copies.options.tma = completion
    error, _, _ = run_pipeline(plain_copies, "tma_pipeline_missing_last_wait")
    assert "thread (32,0,0): exits with bulk stores not waited for" in error, error


def test_a_stores_result_is_visible_when_its_thread_has_waited_for_it(
    copies: NamedKernels,
) -> None:
    x, seen = copies.upload(np.zeros(32, np.float32), "x"), copies.empty(32, np.float32, "seen")
    assert not copies.run("read_back", [x, seen])
    assert (seen.array == 1.0).all()


def test_a_read_wait_does_not_make_a_stores_result_visible(copies: NamedKernels) -> None:
    x, seen = copies.upload(np.zeros(32, np.float32), "x"), copies.empty(32, np.float32, "seen")
    assert not copies.run("read_back_after_read_wait", [x, seen])
    assert not seen.array.any(), "a store that completes late must not be seen by its thread"
    assert (x.array == 1.0).all(), "it must be complete after the launch"


# ---------------------------------------------------------------- instructions that break a rule

# misuse, what the message says
MISUSES = [
    ("map_nobody_made", "TMA load with a tensor map that make_tiled_tensor_map .* has not made"),
    ("misaligned_map", "TMA load with a tensor map at 0x.*, which is not a multiple of 64"),
    ("prefetch_of_map_nobody_made", r"prefetch\.tensormap with a tensor map that .* has not made"),
    ("tiled_with_im2col_map", "TMA load with an im2col tensor map"),
    ("im2col_with_tiled_map", "im2col TMA load with a tiled tensor map"),
    ("wrong_rank", "TMA load with 3 coordinates and a tensor map of rank 2"),
    (
        "misaligned_destination",
        "the destination of a TMA load at offset 64 of shared memory, .* not a multiple of 128",
    ),
    (
        "destination_out_of_bounds",
        "the destination of a TMA load of 1024 bytes at offset 256 .* outside the block's 1152",
    ),
    ("barrier_not_initialised", "TMA load at offset 1024 .* where no mbarrier is initialised"),
    ("barrier_out_of_bounds", "TMA load at offset 1032 .* where no mbarrier is initialised"),
    (
        "start_outside_bounding_box",
        r"im2col TMA load begins at coordinates\[1\] = 7, outside .* bounding box from -1 to 2",
    ),
    ("offset_too_large", r"im2col TMA load with offsets\[1\] = 256; at most 255 with rank 4"),
    ("multicast_to_nobody", "TMA load multicast to no block: the mask is 0"),
    ("multicast_outside_cluster", "multicast with mask 0x2 names blocks outside the cluster of 1"),
    (
        "still_in_flight_at_exit",
        "the block exits with TMA loads not waited for: they signal phase 0 of mbarrier 'full'",
    ),
    ("store_with_im2col_map", "TMA store with an im2col tensor map"),
    ("misaligned_source", "the source of a TMA store at offset 64 .* not a multiple of 128"),
    ("copy_into_other_block", r"the destination of cp\.async takes addresses of the executing"),
]


@pytest.mark.parametrize(("misuse", "message"), MISUSES)
def test_instructions_that_break_a_rule_end_the_launch(
    copies: NamedKernels, misuse: str, message: str
) -> None:
    error = copies.run(f"misuse_{misuse}", [copies.upload(values(1024), "x")])
    pattern = rf"^misuse: block \(0,0,0\) thread \(0,0,0\): .*{message}"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"
    assert not copies.run("misuse_none", [copies.upload(values(1024), "x")])


CHECKED_MISUSES = [
    ("barrier_not_fenced", "TMA load on mbarrier 'full' .*, whose initialisation .* not fenced"),
    ("store_of_what_nobody_wrote", "read by a bulk store of uninitialised shared memory: .*byte 0"),
    (
        "stores_of_blocks_conflict",
        r"conflict between blocks: global write at offset 0 of 'x' .* block \(\d,0,0\) wrote",
    ),
]


@pytest.mark.parametrize(("misuse", "message"), CHECKED_MISUSES)
def test_checked_mode_reports_what_plain_mode_cannot_see(
    checked_copies: NamedKernels, misuse: str, message: str
) -> None:
    error = checked_copies.run(f"misuse_{misuse}", [checked_copies.upload(values(1024), "x")])
    pattern = rf"^misuse: block \(\d,0,0\) thread \(0,0,0\): .*{message}"
    assert re.search(pattern, error), f"must be reported as {pattern!r}, got {error!r}"


# ---------------------------------------------------------------- global memory


@pytest.mark.parametrize("kernel", ["load_box_2", "store_box_2"])
def test_a_map_larger_than_its_tensor_is_found_out(copies: NamedKernels, kernel: str) -> None:
    box = TiledBox(Tensor(FLOAT32, [32, 16]), [32, 8], [0, 8])
    x = copies.upload(values(32 * 15), "x")
    y = copies.upload(values(32 * 8), "y")
    copies.options.check = 1
    error = copies.run(kernel, [x, y], box.numbers())
    verb = "read" if kernel == "load_box_2" else "write"
    where = rf"thread \(0,0,0\): global {verb} of 128 bytes at offset 1920 of 'x' \(1920 bytes\)"
    assert re.search(where, error), error


@pytest.mark.parametrize("completion", [LATE, EARLY])
def test_plain_mode_names_the_issuing_thread_of_a_load_that_hits_a_guard_page(
    plain_copies: NamedKernels, completion: int
) -> None:
    plain_copies.options.tma = completion
    box = TiledBox(Tensor(FLOAT32, [32, 1 << 20]), [32, 8], [0, 1024])
    x, y = plain_copies.upload(values(32 * 16), "x"), plain_copies.upload(values(32 * 8), "y")
    error = plain_copies.run("load_box_2", [x, y], box.numbers())
    assert re.search(r"^load_box: block \(0,0,0\) thread \(0,0,0\): global read at", error), error


def test_a_load_of_what_nobody_wrote_is_reported(checked_copies: NamedKernels) -> None:
    box = TiledBox(Tensor(FLOAT32, [32, 16]), [32, 8], [0, 8])
    x = checked_copies.empty(32 * 16, np.float32, "x")
    y = checked_copies.empty(32 * 8, np.float32, "y")
    error = checked_copies.run("load_box_2", [x, y], box.numbers())
    assert "uninitialised global memory: nobody has written byte 1024 of 'x'" in error, error


# ---------------------------------------------------------------- multicast

BLOCKS, CLUSTERS, ROUNDS = 4, 2, 3


def run_multicast(emulator: NamedKernels, kernel: str) -> tuple[str, np.ndarray, np.ndarray]:
    x = values(CLUSTERS * ROUNDS * BLOCKS * 4 * COLUMNS)
    y = emulator.empty(BLOCKS * x.size, np.float32, "y")
    error = emulator.run(kernel, [emulator.upload(x, "x"), y], [BLOCKS, CLUSTERS, ROUNDS])
    return error, y.array.reshape(BLOCKS, -1).copy(), np.tile(x, (BLOCKS, 1))


@pytest.mark.parametrize("timing", TIMINGS)
def test_multicast_reaches_every_block_under_every_timing(
    copies: NamedKernels, timing: tuple[int, int, int]
) -> None:
    copies.set_timing(*timing)
    error, y, expected = run_multicast(copies, "multicast")
    assert not error
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("timing", TIMINGS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing_first_cluster_sync", "block . of the cluster may not have started yet"),
        (
            "missing_expect",
            "completes while . TMA loads that signal it are in flight|is not ordered after a TMA "
            "load that signals phase|(?s:deadlock.*block 1 of the cluster: .* -\\d+ bytes)",
        ),
    ],
)
def test_faults_of_multicasts_are_reported_under_every_timing(
    checked_copies: NamedKernels, fault: str, message: str, timing: tuple[int, int, int]
) -> None:
    checked_copies.set_timing(*timing)
    error, _, _ = run_multicast(checked_copies, f"multicast_{fault}")
    assert re.search(message, error), f"must be reported as {message!r}, got {error!r}"


EXITED = "block 1 of the cluster has exited|the block exits with TMA loads not waited for"


@pytest.mark.parametrize("timing", TIMINGS)
def test_a_multicast_to_a_block_that_exits_is_reported(
    checked_copies: NamedKernels, timing: tuple[int, int, int]
) -> None:
    checked_copies.set_timing(*timing)
    error, _, _ = run_multicast(checked_copies, "multicast_block_exited")
    assert re.search(EXITED, error), f"must be reported as {EXITED!r}, got {error!r}"


def test_plain_mode_sees_that_exit_when_loads_complete_late(plain_copies: NamedKernels) -> None:
    plain_copies.options.tma = LATE
    error, _, _ = run_multicast(plain_copies, "multicast_block_exited")
    assert re.search(EXITED, error), f"must be reported as {EXITED!r}, got {error!r}"


# ---------------------------------------------------------------- counters

MBARRIER_BYTES = 8  # written when it is initialised


def test_plain_mode_counts_what_tensor_copies_do_to_global_memory(
    plain_copies: NamedKernels,
) -> None:
    plain_copies.options.count = 1
    error, _, _ = run_pipeline(plain_copies, "tma_pipeline")
    assert not error
    counters = plain_copies.launches()[-1].counters
    total = TILES * ROWS * COLUMNS * 4
    assert counters.global_load_bytes == counters.global_store_bytes == total
    assert counters.distinct_load_sectors == counters.distinct_store_sectors == total // 32


@pytest.mark.parametrize("completion", [LATE, EARLY])
def test_tensor_copies_are_counted(checked_copies: NamedKernels, completion: int) -> None:
    checked_copies.options.count, checked_copies.options.tma = 1, completion
    error, _, _ = run_pipeline(checked_copies, "tma_pipeline")
    assert not error
    counters = checked_copies.launches()[-1].counters
    total = TILES * ROWS * COLUMNS * 4
    assert counters.global_load_bytes == counters.distinct_load_bytes == total
    assert counters.global_store_bytes == counters.distinct_store_bytes == total
    assert counters.global_load_sectors == counters.distinct_load_sectors == total // 32
    assert counters.global_store_sectors == counters.distinct_store_sectors == total // 32
    # Each tile is written by the load and by the threads, and read by the threads and the store.
    assert counters.shared_load_bytes == 2 * total
    assert counters.shared_store_bytes == 2 * total + 4 * MBARRIER_BYTES


def test_a_clipped_box_counts_what_it_reads_and_what_it_fills(
    checked_copies: NamedKernels,
) -> None:
    checked_copies.options.count = 1
    # Rows 12 to 19 of 16, columns 24 to 55 of 32 floats at a pitch of 160 bytes.
    tensor = Tensor(FLOAT32, [32, 16], [32])
    box = TiledBox(tensor, [32, 8], [24, 12])
    x = checked_copies.upload(values(tensor.bytes, np.uint8), "x")
    y = checked_copies.empty(box.bytes, np.uint8, "y")
    assert not checked_copies.run("load_box_2", [x, y], box.numbers())
    counters = checked_copies.launches()[-1].counters
    assert counters.global_load_bytes == counters.distinct_load_bytes == 4 * 8 * 4
    assert counters.global_load_sectors == counters.distinct_load_sectors == 4
    assert counters.shared_store_bytes == box.bytes + MBARRIER_BYTES
