"""Call overhead: every public op and module, in the host's time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from resnet_cuda import nn as fused_nn
from resnet_cuda import ops
from resnet_cuda.bench.device import CpuDevice, Device, DryRunDevice
from resnet_cuda.bench.levels import overhead
from resnet_cuda.bench.levels.overhead import PASSES
from resnet_cuda.bench.runner import Runner
from resnet_cuda.bench.workload import OK, OURS, WRONG, Candidate, Result, Workload
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu
from tests.bench.tiny_networks import PLAN, TINY, registered

DESCRIPTIONS = {"ConvUnit", "FoldedConv", "Identity", "NormUnit", "ZeroPad"}  # no calls
INSIDE_MODELS = {"FusedStage"}


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(overhead, "_NETWORK", TINY)
    monkeypatch.setattr(
        overhead, "_BATCH", 4
    )  # of so few channels, one image gives gradients by luck
    with registered():
        yield


def run(device: Device, workloads: Iterator[Workload]) -> list[Result]:
    results: list[Result] = []
    Runner(device, PLAN, results.append).run(workloads)
    return results


def test_every_public_op_and_module_is_measured() -> None:
    wanted = {*ops.__all__, *fused_nn.__all__} - DESCRIPTIONS - INSIDE_MODELS
    measured = {w.name.split()[0] for w in overhead.workloads(CpuDevice(), PLAN)}
    assert wanted <= measured, "add the new op or module to bench/levels/overhead.py"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ours_computes_what_eager_computes(dtype: torch.dtype) -> None:
    results = run(CpuDevice(), overhead.workloads(CpuDevice(), replace(PLAN, dtypes=(dtype,))))
    assert [f"{r.workload} {r.message}" for r in results if r.status != OK] == []
    assert {r.pass_name for r in results} >= set(PASSES)
    assert all(r.versus for r in results if r.ours)


def test_a_dry_run_executes_the_kernels_of_a_few() -> None:
    plan = replace(PLAN, first_layers=1)
    results = run(DryRunDevice(), overhead.workloads(DryRunDevice(), plan))
    assert [f"{r.workload} {r.message}" for r in results if r.status != OK] == []
    measured = {(r.workload.split()[0], r.pass_name) for r in results}
    assert measured == {
        *(("BasicBlock", pass_name) for pass_name in PASSES),
        (TINY, "inference"),
        (TINY, "training step"),
    }


def test_a_wrong_op_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    add_relu = ops.add_relu
    monkeypatch.setattr(ops, "add_relu", lambda x, residual: add_relu(x, residual) + 0.1)
    workload = overhead.tiny(CpuDevice(), "add_relu", "inference", torch.float32)
    rows = {r.candidate: r for r in run(CpuDevice(), iter([workload]))}
    assert rows[OURS].status == WRONG and rows["eager channels_last"].status == OK


def test_backward_gives_every_input_its_gradient() -> None:
    workload = overhead.tiny(CpuDevice(), "bottleneck_expand", "backward", torch.float32)
    ours, eager = (candidate.prepare()() for candidate in workload.candidates)
    given = [gradient is not None for gradient in ours]  # type: ignore[attr-defined]
    assert given == [gradient is not None for gradient in eager]  # type: ignore[attr-defined]
    assert sum(given) == 5  # x, residual, weight, gamma, beta


def test_the_hosts_time_counts_and_not_the_devices() -> None:
    gpu = FakeGpu()
    device = FakeCudaDevice(gpu)

    def slow_on_device() -> None:
        gpu.launch(1.0)

    workload = Workload(
        "overhead",
        "enqueue",
        "inference",
        torch.float32,
        0,
        0,
        [Candidate(OURS, lambda: slow_on_device, ours=True)],
        host_time=True,
    )
    (row,) = run(device, iter([workload]))
    assert row.median_us is not None and row.median_us < 0.1e6, "waited for the device"
