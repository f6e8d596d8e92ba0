"""mbarriers: phases, parities, counts, and what a hang or a wrong use is told."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from emulator_library import RANDOM, REVERSED, ROUND_ROBIN, SCHEDULES, Emulator

ROUNDS = 8
MAX_COUNT = 2**20 - 1


def launch(
    emulator: Emulator, kernel: str, threads: int = 64, operand: int = 0
) -> tuple[str, np.ndarray]:
    x = emulator.upload(np.arange(32, dtype=np.float32), "x")
    y = emulator.empty(32 * ROUNDS, np.float32, "y")
    error = emulator.launch(kernel, (1,), (threads,), x, y, n=ROUNDS, operand=operand)
    return error, y.array.copy()


@pytest.mark.parametrize("kernel", ["ring", "ring_polls", "ring_peeks"])
def test_a_ring_of_two_slots_works_under_every_schedule(either: Emulator, kernel: str) -> None:
    wanted = np.concatenate([np.arange(32)[::-1] + round_ for round_ in range(ROUNDS)])
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, y = launch(either, kernel)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        np.testing.assert_array_equal(y, wanted)


def test_an_invalidated_mbarrier_leaves_its_memory_for_other_use(either: Emulator) -> None:
    error, y = launch(either, "mbarrier_invalidated", threads=32)
    assert not error, error
    assert y[0] == 0


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    "kernel", ["ring_reader_does_not_wait", "ring_wrong_parity", "ring_no_barrier_after_init"]
)
def test_checked_library_reports_what_is_not_ordered(
    checked: Emulator, kernel: str, schedule: int
) -> None:
    fault = (
        "race in shared memory|uninitialised shared memory|no mbarrier is initialised|"
        r"whose initialisation by thread \(0,0,0\) is not ordered before"
    )
    for seed in range(5):
        checked.options.schedule, checked.options.seed = schedule, seed
        error, _ = launch(checked, kernel)
        pattern = rf"{kernel}: block \(0,0,0\) thread \(\d+,0,0\): .*({fault})"
        assert re.match(pattern, error), f"seed {seed}: {error!r}"


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    "kernel", ["ring_writer_does_not_wait", "ring_waits_ahead", "ring_too_many_arrivals"]
)
def test_checked_library_reports_a_race_or_the_phase_that_passed_by(
    checked: Emulator, kernel: str, schedule: int
) -> None:
    for seed in range(5):
        checked.options.schedule, checked.options.seed = schedule, seed
        error, _ = launch(checked, kernel)
        assert re.search("race in|uninitialised|deadlock", error), f"seed {seed}: {error!r}"


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    ("kernel", "full"),
    [
        ("ring_writer_does_not_arrive", "phase 0 (parity 0) lacks 32 of 32 arrivals and 0 bytes"),
        ("ring_one_lane_does_not_arrive", "phase 0 (parity 0) lacks 1 of 32 arrivals and 0 bytes"),
        ("ring_expects_bytes", "phase 0 (parity 0) lacks 0 of 32 arrivals and 1024 bytes"),
        ("ring_polls_for_ever", "phase 0 (parity 0) lacks 32 of 32 arrivals and 0 bytes"),
    ],
)
def test_a_hang_names_mbarrier_parity_phase_and_what_is_pending(
    either: Emulator, kernel: str, full: str, schedule: int
) -> None:
    either.options.schedule = schedule
    start = time.monotonic()
    error, _ = launch(either, kernel)
    assert time.monotonic() - start < 5, "a hang is found out, not waited for"
    assert error.splitlines()[:3] == [
        f"{kernel}: block (0,0,0): deadlock, no thread can run:",
        "  thread (0,0,0) to (31,0,0): waiting for parity 0 of mbarrier 'empty[0]' at offset 272 of "
        "shared memory: phase 0 (parity 0) lacks 32 of 32 arrivals and 0 bytes",
        "  thread (32,0,0) to (63,0,0): waiting for parity 0 of mbarrier 'full[0]' at offset 256 of "
        f"shared memory: {full}",
    ]
    assert not launch(either, "ring")[0], "the next launch must work"


def test_a_reader_that_does_not_arrive_hangs_one_phase_later(either: Emulator) -> None:
    error, _ = launch(either, "ring_reader_does_not_arrive")
    assert "(31,0,0): waiting for parity 0 of mbarrier 'empty[0]'" in error, error
    assert "(63,0,0): waiting for parity 1 of mbarrier 'full[0]' at offset 256" in error, error
    assert "phase 1 (parity 1) lacks 32 of 32 arrivals" in error, error


@pytest.mark.parametrize(
    ("kernel", "fault"),
    [
        ("mbarrier_not_initialised", "arrive at offset 8 .* where no mbarrier is initialised"),
        ("mbarrier_overwritten", "arrive at offset 0 .* where no mbarrier is initialised"),
        ("mbarrier_initialised_twice", "init of mbarrier 'barrier' .* is initialised already"),
        ("mbarrier_misaligned", "init at offset 4 .* which is not a multiple of 8"),
        ("mbarrier_too_many_bytes", f"'barrier' .* would have {MAX_COUNT + 1} bytes pending"),
        (
            "mbarrier_too_many_arrivals",
            ".arrive with count 1 on .* takes 0 more arrivals of 1 in ph",
        ),
        ("mbarrier_no_such_parity", "try_wait for parity 2; it is 0 or 1"),
    ],
)
def test_a_wrong_call_is_named(either: Emulator, kernel: str, fault: str) -> None:
    error, _ = launch(either, kernel, threads=32)
    pattern = rf"{kernel}: block \(0,0,0\) thread \(\d+,0,0\): mbarrier.?({fault})"
    assert re.match(pattern, error), error
    assert not launch(either, "ring")[0], "the next launch must work"


@pytest.mark.parametrize("count", [0, MAX_COUNT + 1, -1])
def test_counts_that_the_hardware_cannot_hold_are_refused(either: Emulator, count: int) -> None:
    error, _ = launch(either, "mbarrier_count_of_operand", threads=1, operand=count)
    assert f"mbarrier.init with count {count % 2**32}; from 1 to {MAX_COUNT}" in error, error


def test_the_largest_count_is_accepted(either: Emulator) -> None:
    assert not launch(either, "mbarrier_count_of_operand", threads=1, operand=MAX_COUNT)[0]
