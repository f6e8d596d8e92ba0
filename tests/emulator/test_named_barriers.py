"""Named barriers: what they order, and what a wrong use of them is told."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import RANDOM, REVERSED, ROUND_ROBIN, SCHEDULES, Emulator

ROUNDS = 6


def launch(emulator: Emulator, kernel: str) -> tuple[str, np.ndarray]:
    x = emulator.upload(np.arange(64, dtype=np.float32), "x")
    y = emulator.empty(64 * ROUNDS, np.float32, "y")
    error = emulator.launch(kernel, (1,), (128,), x, y, n=ROUNDS)
    return error, y.array.copy()


def test_two_warps_pass_values_to_two_others_under_every_schedule(either: Emulator) -> None:
    wanted = np.concatenate([np.arange(64)[::-1] + round_ for round_ in range(ROUNDS)])
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, y = launch(either, "named")
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        np.testing.assert_array_equal(y, wanted)


def test_barrier_0_by_name_is_that_of_syncthreads(either: Emulator) -> None:
    error, y = launch(either, "named_barrier_0")
    assert not error, error
    np.testing.assert_array_equal(y[:64], np.arange(64)[::-1])


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        ("named_readers_do_not_wait", "race in shared memory|uninitialised shared memory"),
        ("named_writers_do_not_wait", "barrier 1, where this thread has arrived already|race in"),
    ],
)
def test_a_missing_wait_is_reported(
    checked: Emulator, kernel: str, fault: str, schedule: int
) -> None:
    checked.options.schedule = schedule
    error, _ = launch(checked, kernel)
    assert re.match(rf"{kernel}: block \(0,0,0\) thread \(\d+,0,0\): .*({fault})", error), error


# One call that is wrong by itself: plain library and checked one, every schedule.
@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        (
            "named_different_counts",
            r"barrier_(sync|arrive) on barrier 1 for (96|128) threads, while \d+ threads have "
            r"arrived there for (128|96)",
        ),
        ("named_part_of_a_warp", "barrier_sync on barrier 1 for 120 threads.* a multiple of 32"),
        (
            "named_more_threads_than_the_block",
            "barrier_sync on barrier 1 for 160 threads, in a block",
        ),
        ("named_no_such_barrier", "barrier_sync on barrier 16; a block has barriers 0 to 15"),
        (
            "named_arrive_twice",
            r"barrier_arrive on barrier 1, where this thread has arrived already: \d+ of 128",
        ),
        (
            "named_barrier_0_twice",
            r"__syncthreads, which is barrier 0, while \d+ threads have arrived there for 128|"
            r"barrier_sync on barrier 0 for 128 threads, while \d+ threads are at __syncthreads",
        ),
    ],
)
def test_wrong_operands_are_named(either: Emulator, kernel: str, fault: str, schedule: int) -> None:
    either.options.schedule = schedule
    error, _ = launch(either, kernel)
    assert re.match(rf"{kernel}: block \(0,0,0\) thread \(\d+,0,0\): ({fault})", error), error
    assert not launch(either, "named")[0], "the next launch must work"


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    ("kernel", "arrived"),
    [("named_writers_do_not_arrive", 64), ("named_one_warp_does_not_arrive", 96)],
)
def test_a_barrier_that_never_fills_is_a_deadlock_with_its_count(
    either: Emulator, kernel: str, arrived: int, schedule: int
) -> None:
    either.options.schedule = schedule
    error, _ = launch(either, kernel)
    assert error.splitlines()[:3] == [
        f"{kernel}: block (0,0,0): deadlock, no thread can run:",
        "  thread (0,0,0) to (63,0,0): at barrier 2, which 64 of 128 threads have reached",
        f"  thread (64,0,0) to (127,0,0): at barrier 1, which {arrived} of 128 threads have reached",
    ]
    assert not launch(either, "named")[0], "the next launch must work"
