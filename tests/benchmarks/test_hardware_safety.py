"""The safety checks find what they are for: each against an op or a GPU with that fault."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import resnet_cuda
from benchmarks.hardware import correctness, safety
from benchmarks.hardware.child import Context
from benchmarks.hardware.gpu import DryGpu, Gpu
from benchmarks.hardware.protocol import FAILED, OK, Skip, run_check
from resnet_cuda.bench.device import DryRunDevice
from resnet_cuda.cli._check_cases import Case, cases


@pytest.fixture(autouse=True)
def _emulated() -> Iterator[None]:
    with resnet_cuda.use_backend("emulated"):
        yield


@pytest.fixture
def gpu() -> DryGpu:
    return DryGpu(DryRunDevice())


@pytest.fixture
def case() -> Case:
    return next(c for c in cases(torch.float32, "cpu") if c.name == "add_relu")


def test_all_checks_hold_for_one_op(gpu: DryGpu) -> None:
    context = Context("safety", "dry-run", ops=frozenset({"add_relu"}))
    rows = [run_check(check) for check in safety.checks(context, gpu)]
    assert len(rows) == 8
    assert {row.status for row in rows if not row.name.startswith("another device")} == {OK}
    assert all("add_relu" in row.name for row in rows)


def test_the_network_is_left_out_where_its_ops_are_not_chosen(gpu: DryGpu) -> None:
    names = [c.name for c in safety.checks(Context("safety", "dry-run"), gpu)]
    assert "graph: training step of resnet18" in names
    few = safety.checks(Context("safety", "dry-run", ops=frozenset({"bn_relu"})), gpu)
    assert not any("resnet18" in check.name for check in few)


def test_an_op_on_another_stream_is_noticed(
    gpu: DryGpu, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = []

    def queued(self: safety.Call, factor: float) -> None:
        values.append(factor)
        if len(values) < 3:  # what is queued on the side stream is not there yet when the op reads
            fill(self, factor)

    fill = safety.Call.fill
    monkeypatch.setattr(safety.Call, "fill", queued)
    with pytest.raises(AssertionError, match="did not wait for its stream's earlier work: output"):
        safety.follows_the_current_stream(gpu, case)
    assert values == [0.5, 1.0, 0.5]


def test_an_op_that_waits_for_the_gpu_is_noticed(
    gpu: DryGpu, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DryGpu, "is_busy", lambda self, stream: False)
    with pytest.raises(AssertionError, match="it waits for it"):
        safety.follows_the_current_stream(gpu, case)


def test_an_op_that_a_capture_misses_is_noticed(
    gpu: DryGpu, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: list[Any] = []

    def graph(self: DryGpu, function: Any) -> Any:
        captured.append(function())
        return lambda: captured[0]  # replays nothing

    monkeypatch.setattr(DryGpu, "graph", graph)
    with pytest.raises(AssertionError, match="replayed on inputs times 0.5: output, gradient 0"):
        safety.is_captured(gpu, case)


def test_an_op_that_keeps_memory_is_noticed(
    gpu: DryGpu, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Tensor] = []

    def keeps(x: Tensor, residual: Tensor) -> Tensor:
        kept.append(torch.zeros(1000))
        return case.fused(x, residual)

    monkeypatch.setattr(DryGpu, "allocated", lambda self: sum(t.nbytes for t in kept))
    with pytest.raises(AssertionError, match="5 calls left 20000 bytes allocated"):
        safety.does_not_grow(5, gpu, case._replace(fused=keeps))


def test_an_error_in_another_thread_arrives(gpu: DryGpu, case: Case) -> None:
    threads = []

    def fails_elsewhere(x: Tensor, residual: Tensor) -> Tensor:
        threads.append(threading.current_thread())
        if threads[-1] is not threading.main_thread():
            raise RuntimeError("wrong thread")
        return case.fused(x, residual)

    with pytest.raises(RuntimeError, match="wrong thread"):
        safety.runs_in_another_thread(gpu, case._replace(fused=fails_elsewhere))


def test_an_op_that_accepts_nonsense_is_noticed(gpu: DryGpu, case: Case) -> None:
    tolerant = case._replace(fused=lambda x, r: case.fused(x.view_as(r), r))
    with pytest.raises(AssertionError, match="a one-dimensional x was accepted"):
        safety.survives_an_error(gpu, tolerant)


def test_an_op_that_an_error_spoils_is_noticed(gpu: DryGpu, case: Case) -> None:
    failed: list[bool] = []

    def spoiled(x: Tensor, residual: Tensor) -> Tensor:
        if x.dim() == 1:
            failed.append(True)
        z = case.fused(x, residual)
        return z + 1 if failed else z

    with pytest.raises(AssertionError, match="after an error: output"):
        safety.survives_an_error(gpu, case._replace(fused=spoiled))


def test_one_gpu_skips_the_second(gpu: DryGpu, case: Case) -> None:
    with pytest.raises(Skip, match="one GPU"):
        safety.runs_on_another_device(gpu, case)


def test_another_device_gets_its_own_tensors(
    gpu: DryGpu, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DryGpu, "count", lambda self: 2)
    gpu.second = torch.device("cpu")
    safety.runs_on_another_device(gpu, case)


def test_an_op_that_changes_from_run_to_run_is_noticed(case: Case) -> None:
    runs: list[int] = []

    def drifting(x: Tensor, residual: Tensor) -> Tensor:
        runs.append(1)
        return case.fused(x, residual) + 1e-6 * len(runs)

    with pytest.raises(AssertionError, match="differs from run to run: output"):
        correctness.same_twice(case._replace(fused=drifting))


def test_agreement_with_the_emulator_is_counted_in_ulps(case: Case) -> None:
    assert correctness.as_emulated(case) == "bitwise"
    scaled = case._replace(fused=lambda x, r: case.fused(x, r) * (1 + 2**-20))
    message = correctness.compared(*correctness.both(scaled, case))
    found = re.fullmatch(r"bitwise in 0 of 3 tensors, within (.*) ulp of the largest .*", message)
    assert found and 6 <= float(found[1]) <= 9, message  # 2**-20 is 8 ulp of 1


def test_disagreement_with_the_emulator_fails(case: Case) -> None:
    doubled = case._replace(fused=lambda x, r: 2 * case.fused(x, r))
    with pytest.raises(AssertionError, match="units in the last place"):
        correctness.compared(*correctness.both(doubled, case))
    nan = case._replace(fused=lambda x, r: case.fused(x, r) * float("nan"))
    with pytest.raises(AssertionError, match="nan units in the last place"):
        correctness.compared(*correctness.both(nan, case))


def test_a_wrong_op_fails_the_rule() -> None:
    context = Context("correctness", "dry-run", ops=frozenset({"add_relu"}))
    checks = list(correctness.checks(context))
    assert {run_check(check).status for check in checks} == {OK}
    assert not any("resnet18" in check.name or "7x7" in check.name for check in checks)
    case = next(c for c in cases(torch.float32, "cpu") if c.name == "add_relu")
    off = case._replace(fused=lambda x, r: case.fused(x, r) + 1e-3)
    row = run_check(correctness.Check("off", lambda: correctness.against_fp64(off)))
    assert row.status == FAILED and "is off by" in row.message


def test_the_gpu_is_used_as_torch_wants_it() -> None:
    """Every call to torch.cuda, on a stand-in that writes them down and has the names that torch.cuda has."""
    calls: list[Any] = []

    @contextmanager
    def stream(given: Any) -> Iterator[None]:
        calls.append("enter")
        yield
        calls.append("leave")

    side = SimpleNamespace(
        wait_stream=lambda other: calls.append(("wait", other)), query=lambda: False
    )
    cuda = SimpleNamespace(
        Stream=lambda: side,
        current_stream=lambda: "current",
        stream=stream,
        _sleep=lambda cycles: calls.append("sleep"),
        set_sync_debug_mode=lambda mode: calls.append(mode),
        memory_allocated=lambda: 7,
        device_count=lambda: 2,
    )
    missing = [name for name in vars(cuda) if not hasattr(torch.cuda, name)]
    assert not missing, f"torch.cuda has no {missing}"
    gpu = Gpu(DryRunDevice(), cuda)
    assert (gpu.count(), gpu.allocated(), gpu.graph(lambda: 3)()) == (2, 7, 3)
    given = gpu.side_stream()
    with gpu.on(given):
        gpu.delay()
    assert gpu.is_busy(given)
    with pytest.raises(ZeroDivisionError), gpu.no_synchronization():
        _ = 1 / 0
    gpu.synchronize()
    assert calls == [("wait", "current"), "enter", "sleep", "leave", "error", "default"]
