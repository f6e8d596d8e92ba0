"""Instructions for whole warps and warpgroups: convergence, elected leaders, register counts."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import RANDOM, REVERSED, ROUND_ROBIN, SCHEDULES, Emulator


def launch(emulator: Emulator, kernel: str, threads: int) -> tuple[str, np.ndarray]:
    counts = emulator.upload(np.zeros(32, np.int32), "counts")
    error = emulator.launch(kernel, (1,), (threads,), counts=counts)
    return error, counts.array.copy()


@pytest.mark.parametrize("kernel", ["leader", "leader_predicated"])
def test_one_lane_is_elected_and_stays_it(either: Emulator, kernel: str) -> None:
    leaders = set()
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, counts = launch(either, kernel, 32)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        assert sorted(counts) == [0] * 31 + [2], "one lane, both times the same"
        leader = int(np.argmax(counts))
        assert schedule == RANDOM or leader == 0
        leaders.add(leader)
    assert len(leaders) > 3, "the random schedule must elect other lanes than 0, too"


def test_of_the_lanes_that_are_left_one_is_elected(either: Emulator) -> None:
    error, counts = launch(either, "leader_half_a_warp", 32)
    assert not error, error
    assert counts[1] == 2, "lane 1 is the first one that has not exited"


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
def test_an_aligned_instruction_after_a_leaders_branch_is_reported(
    checked: Emulator, schedule: int
) -> None:
    checked.options.schedule = schedule
    error, _ = launch(checked, "leader_not_converged", 32)
    pattern = (
        r"leader_not_converged: block \(0,0,0\) thread \((\d+),0,0\): barrier.cluster.arrive needs "
        r"a converged warp: lanes ([0-9a-f]{8}) of warp 0 were in a branch of their own .*; "
        r"__syncwarp\(\) first"
    )
    match = re.match(pattern, error)
    assert match, error
    assert int(match[2], 16) == 1 << int(match[1]), "the leader went its own way"


def test_registers_move_between_warpgroups_under_every_schedule(either: Emulator) -> None:
    for schedule, seed in SCHEDULES:
        either.options.schedule, either.options.seed = schedule, seed
        error, counts = launch(either, "registers", 384)
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"
        assert counts[0] == 384


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
@pytest.mark.parametrize(
    ("kernel", "threads", "fault"),
    [
        ("registers_increase_below", 384, r"setmaxnreg.inc to 40 registers by a warp that has 168"),
        (
            "registers_decrease_above",
            384,
            r"setmaxnreg.dec to 232 registers by a warp that has 168",
        ),
        (
            "registers",
            352,
            r"setmaxnreg.inc by warp (8|9|10), which belongs to no whole warpgroup",
        ),
        (
            "registers_one_warp_does_not",
            384,
            r"warps 8 and 11 of one warpgroup executed setmaxnreg 1 and 0 times",
        ),
    ],
)
def test_a_wrong_setmaxnreg_is_named(
    either: Emulator, kernel: str, threads: int, fault: str, schedule: int
) -> None:
    either.options.schedule = schedule
    error, _ = launch(either, kernel, threads)
    assert re.match(rf"{kernel}: block \(0,0,0\) thread \(\d+,0,0\): {fault}", error), error


@pytest.mark.parametrize("schedule", [ROUND_ROBIN, REVERSED, RANDOM])
def test_registers_beyond_the_blocks_are_a_hang_that_is_reported(
    either: Emulator, schedule: int
) -> None:
    either.options.schedule = schedule
    error, _ = launch(either, "registers_too_many", 384)
    assert error.startswith("registers_too_many: block (0,0,0): deadlock, no thread can run:")
    waiting = r"at setmaxnreg.inc to 240 registers: the block's warps hold 64256 of 65536"
    assert re.search(waiting, error), error
