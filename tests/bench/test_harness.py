"""The harness against itself, and against harnesses with faults."""

from __future__ import annotations

import pytest

from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.harness import MARGIN, ROUNDS, compare_with_itself, self_comparison
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu


def test_a_comparison_with_itself_holds_on_this_machine() -> None:
    """Once in three: a machine that others use may disturb one comparison, an unfair harness fails each."""
    tries = []
    for _ in range(3):
        found = self_comparison(CpuDevice())
        assert found["rounds"] == ROUNDS["cpu"]
        assert 0 < found["nothing_us"] < 0.1 * found["median_us"][0]
        apart = [abs(found[name] - 1) for name in ("paired_ratio", "ratio_of_medians")]
        assert found["holds"] is (max(apart) <= MARGIN)
        tries.append(apart)
        if found["holds"]:
            return
    pytest.fail(f"A and B are the same function and {tries} apart, {MARGIN} allowed")


def test_a_dry_run_compares_with_itself_in_two_rounds() -> None:
    assert self_comparison(DryRunDevice())["rounds"] == 2


def test_a_fair_harness_holds_on_a_gpu_whose_clock_drops() -> None:
    gpu = FakeGpu(speed=lambda now: 1.0 if now < 0.1 else 0.6)
    found = compare_with_itself(FakeCudaDevice(gpu), lambda: gpu.launch(1e-3), 200)
    assert found["holds"] and found["spread"][0] == pytest.approx(0, abs=0.01)
    assert found["nothing_us"] == pytest.approx(0, abs=0.01)


def test_an_unfair_harness_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that always lets A go first and does not flush: B finds A's data in the cache."""
    gpu = FakeGpu()
    device = FakeCudaDevice(gpu)
    calls = 0

    def function() -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            gpu.launch(1e-6, "what evicts A's data before A's turn")
        gpu.launch(1e-3, "f", cached=0.9e-3)

    monkeypatch.setattr(device, "before_sample", lambda: None)
    monkeypatch.setattr("resnet_cuda.bench.timing._turns", lambda names, round_: names)
    monkeypatch.setattr("resnet_cuda.bench.timing._WARM_UP_CALLS", 1)
    found = compare_with_itself(device, function, 20)
    assert not found["holds"]
    assert found["paired_ratio"] == pytest.approx(1 / 0.9, rel=0.01)
