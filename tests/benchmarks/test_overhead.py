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


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Attempts:
    """Sets what the attempts find, ours and torch's, and counts them."""
    monkeypatch.setattr(overhead, "_PAUSE_S", 0.0)
    return Attempts(monkeypatch)


class Attempts:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.made = 0

    def find(self, *found: tuple[float, float]) -> None:
        """One after the other, the last one again and again."""
        self.made = 0

        def least(functions: object) -> tuple[float, float]:
            self.made += 1
            return found[min(self.made, len(found)) - 1]

        self._monkeypatch.setattr(overhead, "least", least)


def test_the_gate_fails_where_something_is_above(
    attempts: Attempts, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts.find((100.0, 1.0))
    assert overhead.main(["add_relu"]) == 1
    assert "overhead: 2 above their limits" in capsys.readouterr().out
    attempts.find((1.0, 1.0))
    assert overhead.main(["add_relu"]) == 0


def test_what_is_above_is_timed_again_behind_the_others(attempts: Attempts) -> None:
    attempts.find((30.0, 10.0), (10.0, 10.0), (13.0, 11.0), (1.0, 1.0))
    assert list(overhead.measured(["add_relu"])) == [
        Measured("add_relu", "forward", 10.0, 10.0),
        Measured("add_relu", "inference", 13.0, 10.0),
    ]
    assert attempts.made == 3, "an attempt that holds is the last one"


def test_an_attempt_in_which_torch_was_slow_does_not_help(attempts: Attempts) -> None:
    attempts.find((20.0, 10.0), (20.0, 19.0))
    (found,) = overhead.measured(["bottleneck_block"])
    assert not found.holds and found.torch_s == 10.0
    assert attempts.made == overhead._ATTEMPTS


def test_a_slower_call_takes_longer() -> None:
    slow, quick = overhead.least([lambda: time.sleep(1e-3), lambda: None], 3)
    assert slow > 1000 > quick
