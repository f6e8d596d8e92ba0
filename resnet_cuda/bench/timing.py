"""Timings that can be compared: what a candidate's runs took, and how two candidates' runs relate.

Candidates of one comparison run in turn, A B C A B C ..., so that whatever happens to the machine happens to
all of them; a ratio is the median over the rounds of one candidate's time over another's in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_cuda.bench.device import Device

_WARM_UP_CALLS = 3
_MAX_CALLS_PER_SAMPLE = 1000


@dataclass(frozen=True)
class Timing:
    """`samples`: seconds per call, one entry per round; each is the mean of `calls` calls in a row."""

    samples: tuple[float, ...]
    calls: int = 1

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def quartiles(self) -> tuple[float, float]:
        if len(self.samples) < 2:
            return self.samples[0], self.samples[0]
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        low, high = self.quartiles
        return (high - low) / self.median

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {
            "median_us": self.median * 1e6,
            "q1_us": low * 1e6,
            "q3_us": high * 1e6,
            "min_us": min(self.samples) * 1e6,
            "rounds": len(self.samples),
            "calls": self.calls,
        }


def ratio(numerator: Timing, denominator: Timing) -> float:
    """The median over the rounds of numerator / denominator; both come from one `measure`."""
    pairs = zip(numerator.samples, denominator.samples, strict=True)
    return statistics.median(a / b for a, b in pairs)


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    seconds: for all candidates of one comparison together; at least `min_rounds` rounds are made whatever they take.
    """

    seconds: float = 2.0
    min_rounds: int = 5
    max_rounds: int = 200


def measure(
    device: Device, functions: Mapping[str, Callable[[], object]], effort: Effort
) -> dict[str, Timing]:
    """Times functions that start work on `device`, interleaved.

    A sample lies between two marks on the device's own timeline, so that work still under way when a function
    returns belongs to it. Before each sample the device evicts its caches (where it has a way to).
    """
    calls = {name: _warm_up(device, function) for name, function in functions.items()}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    start = device.now()
    for round_ in range(effort.max_rounds):
        if round_ >= effort.min_rounds and device.now() - start > effort.seconds:
            break
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:  # no candidate always follows the same one
            samples[name].append(_sample(device, functions[name], calls[name]))
    return {name: Timing(tuple(samples[name]), calls[name]) for name in functions}


def _warm_up(device: Device, function: Callable[[], object]) -> int:
    """Runs the function a few times; returns the calls that make a sample long enough for the device's clock."""
    for _ in range(_WARM_UP_CALLS):
        function()
    seconds = min(_sample(device, function, 1) for _ in range(2))
    wanted = device.min_sample_seconds / max(seconds, 1e-9)
    return max(1, min(_MAX_CALLS_PER_SAMPLE, round(wanted)))


def _sample(device: Device, function: Callable[[], object], calls: int) -> float:
    device.before_sample()
    start = device.mark()
    for _ in range(calls):
        function()
    end = device.mark()
    device.synchronize()
    return device.seconds(start, end) / calls
