"""Launches that may start early: every thread waits before it touches global memory, and before it exits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulator_library import SCHEDULES
from named_kernels import NamedKernels, values

FLOATS = 256
# How thread 0 touches global memory: what a report calls it.
TOUCHES = {
    "load": "read of 4 bytes at offset 0 of 'x'",
    "store": "write of 4 bytes at offset 0 of 'y'",
    "atomic": "atomic of 4 bytes at offset 0 of 'count'",
    "copy": "read of 16 bytes at offset 0 of 'x'",
    "tma_load": "read of 1024 bytes at offset 0 of 'x'",
    "tma_store": "write of 1024 bytes at offset 0 of 'y'",
}


def run(emulator: NamedKernels, kernel: str) -> str:
    x = emulator.upload(values(FLOATS), "x")
    y, count = (
        emulator.empty(FLOATS, np.float32, "y"),
        emulator.upload(np.zeros(1, np.int32), "count"),
    )
    return emulator.run(kernel, [x, y, count])


@pytest.mark.parametrize("touch", TOUCHES)
def test_a_thread_that_has_waited_may_touch_what_it_likes(copies: NamedKernels, touch: str) -> None:
    for schedule, seed in SCHEDULES:
        copies.options.schedule, copies.options.seed = schedule, seed
        error = run(copies, f"early_{touch}")
        assert not error, f"false alarm under schedule {schedule}, seed {seed}: {error}"


# A barrier behind somebody else's wait is no wait of one's own.
@pytest.mark.parametrize("fault", ["before_waiting", "another_waits"])
@pytest.mark.parametrize("touch", TOUCHES)
def test_a_thread_that_has_not_waited_is_named_with_what_it_touches(
    checked_copies: NamedKernels, touch: str, fault: str
) -> None:
    error = run(checked_copies, f"early_{touch}_{fault}")
    pattern = (
        rf"early: block \(0,0,0\) thread \(0,0,0\): global {TOUCHES[touch]} \(\d+ bytes\) before "
        r"grid_dependency_wait, in a launch that may start early"
    )
    assert re.match(pattern, error), error


def test_the_plain_library_reports_them_too_where_it_checks(plain_copies: NamedKernels) -> None:
    assert not run(plain_copies, "early_load_before_waiting")
    plain_copies.options.check = 1
    assert "before grid_dependency_wait" in run(plain_copies, "early_load_before_waiting")


def test_a_thread_that_exits_without_waiting_is_named(checked_copies: NamedKernels) -> None:
    error = run(checked_copies, "early_exits_without_waiting")
    assert re.match(r"early: block \(0,0,0\) thread \(0,0,0\): exits without grid_dep", error), (
        error
    )


@pytest.mark.parametrize("kernel", ["load_before_waiting", "exits_without_waiting"])
def test_a_launch_that_starts_late_has_nothing_to_wait_for(
    copies: NamedKernels, kernel: str
) -> None:
    assert not run(copies, f"late_{kernel}")
    assert [record.starts_early for record in copies.launches()] == [0]


def test_a_launch_record_says_that_it_may_start_early(copies: NamedKernels) -> None:
    assert not run(copies, "early_load")
    assert [record.starts_early for record in copies.launches()] == [1]
