"""Clusters: launches, ranks, the cluster barrier, and each other's shared memory."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from emulator_library import RANDOM, REVERSED, ROUND_ROBIN, SCHEDULES, Emulator

THREADS = 64
SIZES = [1, 2, 4, 8, 16]
LEAVES_EARLY = 40  # this thread of "rotation" writes nothing


def launch(
    emulator: Emulator, kernel: str, size: int = 2, clusters: int = 2
) -> tuple[str, np.ndarray]:
    count = THREADS * size * clusters
    x = emulator.upload(np.arange(count, dtype=np.float32), "x")
    y = emulator.empty(count, np.float32, "y")
    counts = emulator.upload(np.zeros(count, np.int32), "counts")
    grid, block = (size * clusters,), (THREADS,)
    error = emulator.launch(kernel, grid, block, x, y, counts, cluster=(size,))
    return error, (counts if kernel == "global_exchange" else y).array.copy()


@pytest.mark.parametrize("size", SIZES)
def test_blocks_read_each_others_shared_memory_under_every_schedule(
    either: Emulator, size: int
) -> None:
    clusters = 3
    values = np.arange(clusters * size * THREADS).reshape(clusters, size, THREADS)
    wanted = np.roll(values, -1, axis=1)
    stays = np.arange(THREADS) != LEAVES_EARLY
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, y = launch(either, "rotation", size, clusters)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        got = y.reshape(wanted.shape)
        np.testing.assert_array_equal(got[..., stays], wanted[..., stays])


@pytest.mark.parametrize("kernel", ["signal", "signal_no_sync_before_exit"])
@pytest.mark.parametrize("size", [2, 8])
def test_blocks_write_and_arrive_in_each_other(either: Emulator, size: int, kernel: str) -> None:
    values = np.arange(2 * size * THREADS).reshape(2, size, THREADS)
    wanted = np.roll(values, 1, axis=1)[..., ::-1]
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, y = launch(either, kernel, size)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        np.testing.assert_array_equal(y.reshape(wanted.shape), wanted)


def test_what_a_cluster_writes_to_global_memory_may_be_read_by_its_blocks(either: Emulator) -> None:
    error, counts = launch(either, "global_exchange")
    assert not error, error
    wanted = np.arange(4 * THREADS).reshape(2, 2, THREADS)[:, ::-1]
    np.testing.assert_array_equal(counts.reshape(wanted.shape), wanted)


def test_the_same_between_clusters_is_a_conflict(checked: Emulator) -> None:
    x, y = (checked.upload(np.zeros(4 * THREADS, np.float32), name) for name in "xy")
    counts = checked.empty(4 * THREADS, np.int32, "counts")
    error = checked.launch("global_exchange", (4,), (THREADS,), x, y, counts)
    assert re.search(r"conflict between blocks: global read at offset \d+ of 'y'", error), error


def test_ranks_run_along_x_first(either: Emulator) -> None:
    grid, cluster = (4, 6, 2), (2, 3, 2)
    counts = either.upload(np.full(2 * 4 * 6 * 2, -1, np.int32), "counts")
    assert not either.launch("ranks", grid, (THREADS,), counts=counts, cluster=cluster)
    got = counts.array.reshape(2, 6, 4, 2)  # z, y, x, (rank, size)
    for z, y, x in itertools.product(range(2), range(6), range(4)):
        assert got[z, y, x, 0] == x % 2 + 2 * (y % 3) + 6 * (z % 2)
    assert (got[..., 1] == 12).all()
    (record,) = either.launches()
    assert tuple(record.cluster) == cluster


# ---------------------------------------------------------------- launches

REFUSED = [
    ((6,), (4,), "cluster (4,1,1), which does not divide grid (6,1,1)"),
    ((4, 3), (2, 2), "cluster (2,2,1), which does not divide grid (4,3,1)"),
    ((17,), (17,), "cluster (17,1,1); from 1 to 16 blocks"),
    ((4, 4, 4), (4, 4, 4), "cluster (4,4,4); from 1 to 16 blocks"),
    ((4,), (0,), "cluster (0,1,1); from 1 to 16 blocks"),
    ((65536,), (65536, 65536), "cluster (65536,65536,1); from 1 to 16 blocks"),
]


@pytest.mark.parametrize(("grid", "cluster", "reason"), REFUSED)
def test_clusters_that_cuda_refuses_are_refused(
    either: Emulator, grid: tuple[int, ...], cluster: tuple[int, ...], reason: str
) -> None:
    error = either.launch("ranks", grid, (THREADS,), cluster=cluster)
    assert error.startswith(f"ranks: cannot launch with {reason}"), error


# ---------------------------------------------------------------- planted faults

ANOTHER = "access to shared memory of another block: block [01] of the cluster"
FAULTS = [
    ("rotation_no_sync_at_start", f"{ANOTHER} may not have started yet; cluster_sync"),
    ("rotation_syncthreads_at_start", f"{ANOTHER} may not have started yet; cluster_sync"),
    ("rotation_one_block_does_not_sync", f"{ANOTHER} (may not have started yet|has exited)"),
    (
        "rotation_no_sync_before_exit",
        f"{ANOTHER} has exited|the block exits while thread .* of block [01] of the cluster may "
        "still access its shared memory: cluster_sync",
    ),
    ("signal_init_not_fenced", "mbarrier.arrive on mbarrier 'received' .* is not fenced: fence_mb"),
    ("signal_receiver_does_not_wait", "race in shared memory|uninitialised shared memory"),
    (
        "signal_two_writers",
        r"race in shared memory .* by thread \(\d+,0,0\) of block [01] of the cluster",
    ),
]


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(("kernel", "fault"), FAULTS)
def test_checked_library_reports_what_blocks_do_to_each_other_too_early_or_too_late(
    checked: Emulator, kernel: str, fault: str, schedule: int
) -> None:
    for seed in range(5):
        checked.options.schedule, checked.options.seed = schedule, seed
        error, _ = launch(checked, kernel)
        pattern = rf"{kernel}: block \(\d,0,0\) thread \(\d+,0,0\): .*({fault})"
        assert re.match(pattern, error), f"seed {seed}: {error!r}"


WRONG_CALLS = [
    ("rotation_no_such_rank", "mapa to block 2 of a cluster of 2"),
    ("rotation_out_of_bounds", "ld.shared::cluster of 4 bytes at offset 256 .* 256 bytes"),
    ("rotation_misaligned", "ld.shared::cluster .*(which is not a multiple of 4|is outside)"),
    ("rotation_arrive_twice", "cluster_arrive twice without cluster_wait"),
    ("rotation_wait_without_arrive", "cluster_wait without cluster_arrive"),
    ("rotation_late_visit", "shared memory of another block: block 1 of the cluster has exited"),
]


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(("kernel", "fault"), WRONG_CALLS)
def test_a_wrong_call_is_named(either: Emulator, kernel: str, fault: str, schedule: int) -> None:
    either.options.schedule = schedule
    error, _ = launch(either, kernel)
    assert re.match(rf"{kernel}: block \(\d,0,0\) thread \(\d+,0,0\): .*{fault}", error), error
    assert not launch(either, "rotation")[0], "the next launch must work"


def test_a_hang_lists_the_threads_of_every_block(plain: Emulator) -> None:
    # Block 1 never arrives at the first barrier of the cluster and waits at the last one.
    plain.options.workers = 1
    error, _ = launch(plain, "rotation_one_block_hangs")
    lines = error.splitlines()
    assert lines[0] == (
        "rotation_one_block_hangs: block (0,0,0) to (1,0,0) of a cluster: deadlock, no thread can run:"
    )
    assert lines[1:] == [
        "  block (0,0,0) thread (0,0,0) to (63,0,0): at the cluster barrier, which 64 of 127 live "
        "threads have reached",
        "  block (1,0,0) thread (0,0,0): exited",
        "  block (1,0,0) thread (1,0,0) to (63,0,0): at barrier 3, which 63 of 64 threads have "
        "reached",
    ]
