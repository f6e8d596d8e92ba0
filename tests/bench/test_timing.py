"""How candidates take turns, and what their times are worth on a machine that changes under them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

import pytest
import torch

from resnet_cuda.bench.device import CpuDevice
from resnet_cuda.bench.timing import Effort, Timing, measure, quartiles, ratio, ratios
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu

MS = 1e-3


def functions(gpu: FakeGpu, log: list[str], **seconds: float) -> dict[str, Callable[[], None]]:
    def make(name: str, duration: float) -> Callable[[], None]:
        def function() -> None:
            log.append(name)
            gpu.launch(duration)

        return function

    return {name: make(name, duration) for name, duration in seconds.items()}


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_candidates_take_turns_and_each_follows_every_other_equally_often(count: int) -> None:
    gpu, log = FakeGpu(), []  # type: ignore[var-annotated]
    candidates = functions(gpu, log, **{f"c{i}": MS for i in range(count)})
    rounds = 2 * count
    measure(FakeCudaDevice(gpu), candidates, Effort(seconds=100, max_rounds=rounds))
    turns = [log[i : i + count] for i in range(len(log) - rounds * count, len(log), count)]
    assert all(sorted(turn) == sorted(candidates) for turn in turns), "a round has each once"
    first = Counter(turn[0] for turn in turns)
    followers = Counter(pair for turn in turns for pair in zip(turn, turn[1:], strict=False))
    assert set(first.values()) == {2} and len(first) == count
    assert set(followers.values()) == {2} and len(followers) == count * (count - 1)


def test_paired_ratios_hold_while_the_machine_drifts() -> None:
    """Half speed from the middle on: candidates measured one after the other would be judged by when they ran."""
    slow_from = 0.3
    gpu = FakeGpu(speed=lambda now: 1.0 if now < slow_from else 0.5)
    log: list[str] = []
    candidates = functions(gpu, log, ours=1 * MS, peer=1.5 * MS)
    timings = measure(FakeCudaDevice(gpu), candidates, Effort(seconds=0.6))
    ours, peer = timings["ours"], timings["peer"]
    assert max(ours.samples) > 1.9 * min(ours.samples), "the machine did not drift in this test"
    assert ratio(peer, ours) == pytest.approx(1.5, rel=0.01)

    alone = FakeGpu(speed=gpu.speed)
    device = FakeCudaDevice(alone)
    one_by_one = {
        name: measure(device, {name: f}, Effort(seconds=0.3))[name]
        for name, f in functions(alone, log, ours=1 * MS, peer=1.5 * MS).items()
    }
    means = [statistics.mean(one_by_one[name].samples) for name in ("peer", "ours")]
    assert means[0] / means[1] > 1.9, "the drift would have to show in means of separate runs"


def test_a_burst_that_hits_one_candidate_does_not_move_the_ratio() -> None:
    quiet = Timing((1.0,) * 20)
    disturbed = Timing((1.0,) * 12 + (9.0,) * 8)
    assert ratio(disturbed, quiet) == 1.0
    assert disturbed.median == 1.0


def test_a_machine_that_switches_between_two_speeds_does_not_move_the_ratio() -> None:
    """The switch falls into a round: one more sample of A is fast than of B, and the medians lie a factor apart."""
    fast, slow = 1.0, 8.0
    a = Timing((fast,) * 11 + (slow,) * 10)
    b = Timing((fast,) * 10 + (slow,) * 11)
    assert b.median / a.median == 8.0
    assert ratio(b, a) == 1.0


def test_a_function_that_raises_does_not_cost_the_others_their_times() -> None:
    gpu = FakeGpu()
    log: list[str] = []
    candidates = functions(gpu, log, good=MS, also_good=2 * MS)
    calls = 0

    def fails_late() -> None:
        nonlocal calls
        calls += 1
        gpu.launch(MS)
        if calls == 6:
            raise RuntimeError("no luck")

    def exits() -> None:
        raise SystemExit(3)

    errors: dict[str, BaseException] = {}
    timings = measure(
        FakeCudaDevice(gpu),
        {"late": fails_late, **candidates, "exits": exits},
        Effort(seconds=0.1, min_rounds=8),
        errors.__setitem__,
    )
    assert set(timings) == {"good", "also_good"}
    assert {name: type(error) for name, error in errors.items()} == {
        "late": RuntimeError,
        "exits": SystemExit,
    }
    assert ratio(timings["also_good"], timings["good"]) == pytest.approx(2, rel=1e-3)
    with pytest.raises(SystemExit):
        measure(FakeCudaDevice(gpu), {"exits": exits}, Effort())


def test_an_interrupt_is_nobody_s_failure() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(CpuDevice(), {"f": interrupted}, Effort(), lambda name, error: None)


def test_the_first_calls_do_not_count() -> None:
    """They compile, choose algorithms, fill caches."""
    gpu, durations = FakeGpu(), [1.0, 0.5, 0.2]

    def function() -> None:
        gpu.launch(durations.pop(0) if durations else MS)

    timing = measure(FakeCudaDevice(gpu), {"f": function}, Effort(seconds=10))["f"]
    assert max(timing.samples) == pytest.approx(MS, rel=0.01)


def test_quartiles_are_of_the_rounds_ratios() -> None:
    """Both drift to half the speed; their ratio does not."""
    ours = Timing((1.0, 1.0, 1.0, 2.0, 2.0))
    peer = Timing((1.5, 1.4, 1.6, 3.0, 3.0))
    assert ratio(peer, ours) == 1.5
    assert quartiles(ratios(peer, ours)) == (1.5, 1.5)
    assert peer.quartiles == (1.5, 3.0)


def test_a_slow_function_is_not_warmed_up_at_length() -> None:
    gpu, log = FakeGpu(), []  # type: ignore[var-annotated]
    effort = Effort(seconds=1.0, min_rounds=2)
    measure(FakeCudaDevice(gpu), functions(gpu, log, slow=10.0), effort)
    assert len(log) == 3, "one call to warm up, two rounds"


def test_short_functions_are_called_often_enough_for_the_clock() -> None:
    device = CpuDevice()
    x = torch.randn(8)
    timing = measure(device, {"f": lambda: x + 1}, Effort(seconds=0.1, max_rounds=3))["f"]
    assert timing.calls > 10, "a sample of a microsecond would measure the clock"


def test_on_the_cpu_a_function_of_twice_the_work_takes_about_twice_as_long() -> None:
    x = torch.randn(256, 256)

    def work(times: int) -> Callable[[], None]:
        def function() -> None:
            for _ in range(times):
                x @ x

        return function

    threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # two would wait for each other where another process has one of the cores
    try:
        effort = Effort(seconds=0.4, min_rounds=40)
        timings = measure(CpuDevice(), {"one": work(4), "two": work(8)}, effort)
    finally:
        torch.set_num_threads(threads)
    # The quickest samples: on a machine as busy as a test's may be, the median one was interrupted.
    assert 1.5 < min(timings["two"].samples) / min(timings["one"].samples) < 2.7


def test_a_function_too_short_for_the_clock_has_ratios() -> None:
    gpu = FakeGpu()
    functions: dict[str, Callable[[], None]] = {"f": lambda: None, "g": lambda: None}
    timings = measure(FakeCudaDevice(gpu), functions, Effort(seconds=0.01))
    assert timings["f"].median > 0 and timings["f"].spread == 0
    assert ratio(timings["f"], timings["g"]) == 1


def test_statistics_are_those_of_the_samples() -> None:
    timing = Timing(tuple(i * 1e-6 for i in (5, 1, 2, 3, 4)), calls=7, host=(2e-6,))
    assert timing.to_json() == {
        "median_us": pytest.approx(3),
        "q1_us": pytest.approx(2),
        "q3_us": pytest.approx(4),
        "min_us": pytest.approx(1),
        "host_us": pytest.approx(2),
        "rounds": 5,
        "calls": 7,
    }
    assert timing.spread == pytest.approx(2 / 3)
    assert Timing((1.0,)).quartiles == (1.0, 1.0)
