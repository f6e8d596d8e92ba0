"""The gate on what a call costs: which limit is whose, and what is above it. (What it measures is no test's.)"""

from __future__ import annotations

import time

import pytest

from benchmarks import overhead
from benchmarks.overhead import Measured


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Measured("add_relu", "inference", 9.0, 5.0), True),
        (Measured("add_relu", "inference", 9.1, 5.0), False),
        (Measured("add_relu", "forward", 17.0, 5.0), True),
        (Measured("add_relu", "forward", 17.1, 5.0), False),
        (Measured("ConvBNReLU", "inference", 45.0, 30.0), True),
        (Measured("ConvBNReLU", "forward", 45.1, 30.0), False),
    ],
)
def test_an_op_has_microseconds_and_a_module_a_ratio(found: Measured, holds: bool) -> None:
    assert found.holds is holds
    assert found.line().startswith("ok" if holds else "ABOVE")


def test_the_gate_fails_where_something_is_above(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(overhead, "_PAUSE_S", 0.0)
    monkeypatch.setattr(overhead, "least", lambda functions, blocks: [100.0, 1.0])
    assert overhead.main(["add_relu"]) == 1
    monkeypatch.setattr(overhead, "least", lambda functions, blocks: [1.0, 1.0])
    assert overhead.main(["add_relu"]) == 0
    assert "overhead: 2 above their limits" in capsys.readouterr().out


def test_the_least_of_ours_and_of_torch_over_all_attempts_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overhead, "_PAUSE_S", 0.0)

    def found(*attempts: list[float]) -> tuple[Measured, int]:
        rest = list(attempts)
        monkeypatch.setattr(overhead, "least", lambda functions, blocks: rest.pop(0))
        return overhead.measure("add_relu", "inference"), len(rest)

    assert found([30.0, 10.0], [13.0, 11.0], [1.0, 1.0]) == (
        Measured("add_relu", "inference", 13.0, 10.0),
        1,
    ), "an attempt that holds is the last one"
    slow_torch, left = found([20.0, 10.0], [20.0, 19.0], [20.0, 19.0], [20.0, 19.0])
    assert (slow_torch.holds, left) == (False, 0), "an attempt in which torch was slow has helped"


def test_a_slower_call_takes_longer() -> None:
    slow, quick = overhead.least([lambda: time.sleep(1e-3), lambda: None], 3)
    assert slow > 1000 > quick
