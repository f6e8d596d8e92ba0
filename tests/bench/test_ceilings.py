"""The ceilings: what is measured, that caches and hopeless sizes are kept out, and the floors made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resnet_cuda.bench import ceilings
from resnet_cuda.bench.ceilings import Ceilings, measure_ceilings
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.timing import Effort, Timing

GIGA = 10**9


@pytest.fixture
def machine() -> Ceilings:
    return Ceilings(bandwidth=100.0, flops={"float32": 1000.0})


def test_a_floor_is_the_longer_of_arithmetic_and_traffic(machine: Ceilings) -> None:
    assert machine.floor(torch.float32, [(5000, 100)]) == 5.0
    assert machine.floor(torch.float32, [(500, 300)]) == 3.0


def test_the_floor_of_parts_is_the_sum_of_their_floors(machine: Ceilings) -> None:
    parts = [(5000, 100), (500, 300)]
    assert machine.floor(torch.float32, parts) == 8.0, "as one perfect kernel it would be 5.5"


def test_the_memory_share_is_that_of_the_parts_bound_by_traffic(machine: Ceilings) -> None:
    assert machine.memory_share(torch.float32, [(5000, 100), (500, 300)]) == 3.0 / 8.0
    assert machine.memory_share(torch.float32, [(0, 100)]) == 1.0
    assert machine.memory_share(torch.float32, [(5000, 0)]) == 0.0
    assert machine.memory_share(torch.float32, [(0, 0)]) is None


def test_a_dtype_without_a_ceiling_has_a_floor_of_traffic_alone(machine: Ceilings) -> None:
    assert machine.floor(torch.float64, [(5000, 100)]) == 1.0


def test_ceilings_that_were_disturbed_are_doubted() -> None:
    """As where another process has the machine for half of the samples."""

    def row(us: float, slowest: float, **more: object) -> dict[str, object]:
        return {"median_us": us, "q1_us": us, "q3_us": slowest, **more}

    steady = row(100.0, 110.0)
    product = {"dtype": "float32", "flops": 1e9}
    for rows, doubted in (
        ([row(100.0, 110.0, **product)], []),
        ([row(100.0, 900.0, **product)], ["matrix product, float32"]),
        ([row(100.0, 900.0, dtype="float32", flops=1e8), row(100.0, 110.0, **product)], []),
    ):
        found = Ceilings(1e9, {"float32": 1e9}, {"copy": steady, "matmul": rows}).doubts()
        assert [text.partition(": ")[0] for text in found] == [f"ceiling of {d}" for d in doubted]
    assert "copy" in Ceilings(1e9, {}, {"copy": row(1.0, 9.0)}).doubts()[0]
    assert Ceilings(1e9, {}).doubts() == []


def test_ceilings_of_a_dry_run_are_complete_and_serialisable() -> None:
    found = measure_ceilings(DryRunDevice(), (torch.float32, torch.bfloat16))
    data = json.loads(json.dumps(found.to_json()))
    assert set(data["flops"]) == {"float32", "bfloat16"}
    assert data["bandwidth"] == data["details"]["copy"]["bytes_per_second"] > 0
    for row in data["details"]["matmul"]:
        assert {"dtype", "edge", "flops", "median_us", "q1_us", "q3_us"} <= set(row)


class FakeMeasure:
    """Stands for timing.measure: a machine of `rates` FLOP/s and a copy of 10 ms, without running anything."""

    def __init__(self, rates: dict[torch.dtype, float]) -> None:
        self.rates = rates
        self.calls: list[tuple[str, int]] = []
        self.precision: set[str] = set()
        self.zeros = False

    def __call__(
        self, device: object, functions: dict[str, Callable[[], Any]], effort: Effort
    ) -> dict[str, Timing]:
        (function,) = functions.values()
        operands = function.__defaults__  # a product's lambda holds its matrices there
        self.precision.add(torch.get_float32_matmul_precision())
        if operands is None:  # the copy: it returns its target
            self.zeros |= bool((function() == 0).all())
            return {"it": Timing((0.010, 0.010, 0.050))}
        a = operands[0]
        self.zeros |= bool((a == 0).all())
        self.calls.append((str(a.dtype), a.shape[0]))
        return {"it": Timing((2 * a.shape[0] ** 3 / self.rates[a.dtype],) * 3)}


class SmallCpu(CpuDevice):
    def free_memory(self) -> int:
        return 10 * 2**20


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMeasure:
    made = FakeMeasure({torch.float32: 100 * GIGA, torch.float16: 0.5 * GIGA})
    monkeypatch.setattr(ceilings, "measure", made)
    return made


def test_rates_are_of_the_median(fake: FakeMeasure) -> None:
    found = measure_ceilings(SmallCpu(), (torch.float32,))
    copy = found.details["copy"]
    assert found.bandwidth == pytest.approx(copy["bytes"] / 0.010)
    assert found.flops["float32"] == pytest.approx(100 * GIGA)
    assert not fake.zeros, "zeros cost less power and time than data"


def test_a_dtype_without_fast_arithmetic_stops_at_the_first_size(fake: FakeMeasure) -> None:
    measure_ceilings(SmallCpu(), (torch.float32, torch.float16))
    edges = {name: [n for d, n in fake.calls if d == name] for name, _ in fake.calls}
    assert edges["torch.float16"] == [512], "1024 at half a GFLOP/s would take 4 s a call"
    assert edges["torch.float32"] == [512, 1024, 2048]


def test_float32_is_measured_without_tf32_and_the_setting_comes_back(fake: FakeMeasure) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        measure_ceilings(SmallCpu(), (torch.float32,))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert "highest" in fake.precision


def test_the_copy_is_many_caches_long_but_leaves_memory_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ceilings, "cpu_cache_bytes", lambda: 2**20)
    device = CpuDevice()
    monkeypatch.setattr(device, "free_memory", lambda: 2**40)
    assert ceilings.buffer_bytes(device) >= 8 * 2**20
    monkeypatch.setattr(device, "free_memory", lambda: 50 * 2**20)
    assert ceilings.buffer_bytes(device) <= 5 * 2**20


def test_the_cache_size_is_the_largest_that_the_system_names(tmp_path: Path) -> None:
    for i, text in enumerate(("32K", "1024K", "32M", "nonsense")):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "size").write_text(text + "\n")
    assert ceilings.cpu_cache_bytes(tmp_path) == 32 * 2**20
    assert ceilings.cpu_cache_bytes(tmp_path / "absent") is None
