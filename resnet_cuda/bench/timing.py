"""Timings that can be compared: what a candidate's runs took, and how two candidates' runs relate.

Candidates of one comparison run in turn, so that whatever happens to the machine happens to all of them; a ratio is
the median over the rounds of one candidate's time over another's in the same round.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch.utils.benchmark import Measurement, TaskSpec

from resnet_cuda.bench.device import Device

_WARM_UP_CALLS = 3
_MAX_CALLS_PER_SAMPLE = 1000
_RESOLUTION = 1e-9  # seconds; where a clock shows no time at all, ratios still exist


@dataclass(frozen=True)
class Timing:
    """`samples`: seconds per call on the device's timeline, one entry per round; each is the mean of `calls` calls in
    a row. `host`: seconds per call until the function returned, likewise; they show who waited for whom."""

    samples: tuple[float, ...]
    calls: int = 1
    host: tuple[float, ...] = ()

    @cached_property
    def measurement(self) -> Measurement:
        """The samples with torch.utils.benchmark's statistics. Its Timer is not used: it measures one statement to
        the end before the next, and warms up anew each time, where a comparison has to take turns."""
        return Measurement(1, list(self.samples), TaskSpec("", setup=""))

    @property
    def median(self) -> float:
        return self.measurement.median

    @property
    def quartiles(self) -> tuple[float, float]:
        return quartiles(self.samples)

    @property
    def spread(self) -> float:
        """The interquartile range over the median."""
        return self.measurement.iqr / self.median

    def on_host(self) -> Timing:
        """The same of the host's clock: what starting the work took."""
        return replace(self, samples=self.host)

    def to_json(self) -> dict[str, Any]:
        low, high = self.quartiles
        return {
            "median_us": self.median * 1e6,
            "q1_us": low * 1e6,
            "q3_us": high * 1e6,
            "min_us": min(self.samples) * 1e6,
            "host_us": statistics.median(self.host) * 1e6 if self.host else None,
            "rounds": len(self.samples),
            "calls": self.calls,
        }


def quartiles(samples: Sequence[float]) -> tuple[float, float]:
    """The first and the third."""
    if len(samples) < 2:
        return samples[0], samples[0]
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, high


def ratio(numerator: Timing, denominator: Timing) -> float:
    """The median over the rounds of numerator / denominator; both come from one `measure`."""
    return statistics.median(ratios(numerator, denominator))


def ratios(numerator: Timing, denominator: Timing) -> list[float]:
    """numerator / denominator of each round."""
    return [a / b for a, b in zip(numerator.samples, denominator.samples, strict=True)]


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    seconds: for all candidates of one comparison together; at least `min_rounds` rounds are made whatever they take.
    """

    seconds: float = 2.0
    min_rounds: int = 5
    max_rounds: int = 200


def measure(
    device: Device,
    functions: Mapping[str, Callable[[], object]],
    effort: Effort,
    on_error: Callable[[str, BaseException], None] | None = None,
) -> dict[str, Timing]:
    """Times functions that start work on `device`, interleaved.

    A sample lies between two marks on the device's own timeline, so that work still under way when a function
    returns belongs to it. Before each sample the device evicts its caches (where it has a way to).

    A function that raises is given to `on_error` and is not in the result, while the others go on; without
    `on_error`, and where it is interrupted, everything ends.
    """
    samplers: dict[str, _Sampler] = {}

    def attempt(name: str, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            if on_error is None or isinstance(error, KeyboardInterrupt):
                raise
            samplers.pop(name, None)
            on_error(name, error)

    for name, function in functions.items():
        samplers[name] = _Sampler(device, function)
        attempt(name, lambda name=name: samplers[name].warm_up(effort.seconds))  # type: ignore[misc]
    start = device.now()
    for round_ in range(effort.max_rounds):
        if round_ >= effort.min_rounds and device.now() - start > effort.seconds:
            break
        for name in _turns(list(samplers), round_):
            attempt(name, samplers[name].add)
    return {name: sampler.timing() for name, sampler in samplers.items()}


def _turns(names: list[str], round_: int) -> list[str]:
    """The order of one round: the rows of a Williams square, in which every name comes first equally often and every
    name follows every other equally often. With a mere rotation B would nearly always run behind A, in the
    caches and at the temperature that A leaves."""
    n = len(names)
    zigzag = [(-i // 2 if i % 2 == 0 else (i + 1) // 2) % n for i in range(n)]
    row = [names[(step + round_) % n] for step in zigzag]
    # A square of odd size needs its mirror image, too.
    return row[::-1] if n % 2 and round_ // n % 2 else row


class _Sampler:
    """Collects the samples of one function."""

    def __init__(self, device: Device, function: Callable[[], object]) -> None:
        self._device, self._function, self._calls = device, function, 1
        self._samples: list[float] = []
        self._host: list[float] = []

    def warm_up(self, seconds: float) -> None:
        """Calls the function a few times, but does not begin another call when `seconds` have passed, and finds how
        many calls make a sample long enough for the device's clock."""
        start = self._device.now()
        for _ in range(_WARM_UP_CALLS):
            self.add()
            if self._device.now() - start > seconds:
                break
        wanted = self._device.min_sample_seconds / min(self._samples)
        self._calls = max(1, min(_MAX_CALLS_PER_SAMPLE, round(wanted)))
        self._samples.clear()
        self._host.clear()

    def add(self) -> None:
        device = self._device
        device.before_sample()
        start, host_start = device.mark(), device.now()
        for _ in range(self._calls):
            self._function()
        host_end, end = device.now(), device.mark()
        device.synchronize()
        self._samples.append(max(device.seconds(start, end), _RESOLUTION) / self._calls)
        self._host.append((host_end - host_start) / self._calls)

    def timing(self) -> Timing:
        return Timing(tuple(self._samples), self._calls, tuple(self._host))
