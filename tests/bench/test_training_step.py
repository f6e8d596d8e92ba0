"""Where a training step's time goes: everything is counted once, by what it does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from resnet_cuda import _raw
from resnet_cuda.bench import training_step
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.network_runs import Problem
from resnet_cuda.bench.networks import EAGER, FUSED
from resnet_cuda.bench.training_step import IDLE, OTHER
from tests.bench.tiny_networks import MISSING, PLAN, TINY, registered

NO_PASSES = {
    "resnet_cuda::_allows_tf32",
    "resnet_cuda::_build_info",
    "resnet_cuda::_select_emulator",
    "resnet_cuda::_start_early",
}


@pytest.fixture(autouse=True)
def _tiny_networks() -> Iterator[None]:
    with registered():
        yield


@dataclass
class FakeKernel:
    name: str
    duration: float


@dataclass
class FakeEvent:
    """As torch's profiler describes an op, or a kernel where device_type is CUDA."""

    name: str
    device_type: DeviceType = DeviceType.CPU
    kernels: list[FakeKernel] = field(default_factory=list)
    cpu_parent: Any = None
    is_user_annotation: bool | None = False
    self_cpu_time_total: float = 0.0
    device_time_total: float = 0.0


def on_gpu(op: str, kernel: str, us: float, parent: FakeEvent | None = None) -> list[FakeEvent]:
    """An op and the kernel that it launched, through a runtime call as the profiler reports it."""
    above = FakeEvent(op, cpu_parent=parent)
    launch = FakeEvent("cudaLaunchKernel", cpu_parent=above, kernels=[FakeKernel(kernel, us)])
    return [above, launch, FakeEvent(kernel, DeviceType.CUDA, device_time_total=us)]


def kinds(events: list[FakeEvent], wall: float, steps: int = 1) -> dict[str, float]:
    return training_step.group(training_step.kernel_times(events), wall, steps).kinds


@pytest.mark.parametrize(
    ("op", "kernel", "kind"),
    [
        ("aten::cudnn_convolution", "sm90_xmma_gemm_bf16", "convolution forward"),
        ("aten::convolution_backward", "sm90_xmma_dgrad_implicit_gemm", "convolution dgrad"),
        ("aten::convolution_backward", "cutlass_wgrad_optimized", "convolution wgrad"),
        ("aten::convolution_backward", "nchwToNhwcKernel", "copies and layout"),
        ("aten::convolution_backward", "some_gemm", "convolution dgrad and wgrad"),
        ("resnet_cuda::_conv_fprop", "implicit_gemm_kernel", "convolution forward"),
        ("resnet_cuda::_conv_dgrad", "implicit_gemm_kernel", "convolution dgrad"),
        ("resnet_cuda::_conv_wgrad", "sum_splits_kernel", "convolution wgrad"),
        ("resnet_cuda::_bottleneck_expand", "bottleneck_expand_kernel", "convolution forward"),
        ("resnet_cuda::_bn_finalize", "bn_finalize_kernel", "batch norm forward"),
        ("resnet_cuda::_bn_backward_reduce", "bn_reduce_kernel", "batch norm backward"),
        ("aten::cudnn_batch_norm", "bn_fw_tr_1C11", "batch norm forward"),
        ("aten::native_batch_norm", "batch_norm_collect_statistics", "batch norm forward"),
        ("aten::cudnn_batch_norm_backward", "bn_bw_1C11", "batch norm backward"),
        ("aten::native_batch_norm_backward", "batch_norm_reduce", "batch norm backward"),
        ("aten::threshold_backward", "vectorized_elementwise", "ReLU and addition"),
        ("aten::add_", "vectorized_elementwise", "ReLU and addition"),
        ("resnet_cuda::_add_relu_forward", "add_relu_kernel", "ReLU and addition"),
        ("aten::max_pool2d_with_indices", "max_pool_forward_nhwc", "pooling"),
        ("resnet_cuda::_global_avg_pool_forward", "global_avg_pool", "pooling"),
        ("aten::addmm", "nvjet_hsh", "classifier and loss"),
        ("aten::_log_softmax", "cunn_SoftMaxForward", "classifier and loss"),
        ("aten::_foreach_add_", "multi_tensor_apply_kernel", "optimizer"),
        ("aten::copy_", "Memcpy DtoD", "copies and layout"),
        ("aten::erfinv", "erfinv_kernel", OTHER),
    ],
)
def test_a_kernel_counts_for_the_op_that_launched_it(op: str, kernel: str, kind: str) -> None:
    found = kinds(on_gpu(op, kernel, 70.0), wall=100.0)
    assert found[kind] == pytest.approx(70.0), found
    assert found[IDLE] == pytest.approx(30.0), "counted twice, or not at all"


def test_our_ops_have_a_kind_each() -> None:
    _raw.require()
    every = torch._C._dispatch_get_all_op_names()
    names = {n for n in every if n.startswith("resnet_cuda::_")} - NO_PASSES
    assert len(names) > 10
    for name in names:
        event = FakeEvent(name.partition(".")[0])
        assert training_step.kind_of(event) != OTHER, f"{name} is not in _KINDS"


def test_what_an_optimizer_calls_is_the_optimizer() -> None:
    step = FakeEvent("Optimizer.step#SGD.step", is_user_annotation=True)
    assert kinds(on_gpu("aten::add_", "elementwise", 5.0, parent=step), 10.0)["optimizer"] == 5.0


def test_annotations_on_the_gpu_are_no_kernels() -> None:
    annotation = FakeEvent("Optimizer.step", DeviceType.CUDA, device_time_total=50.0)
    annotation.is_user_annotation = True
    assert kinds([annotation], 100.0)[IDLE] == 100.0


def test_a_kernel_without_an_op_is_listed_by_name() -> None:
    events = [FakeEvent("mystery_kernel", DeviceType.CUDA, device_time_total=20.0)] * 2
    found = training_step.group(training_step.kernel_times(events), 200.0, steps=2)
    assert found.unrecognised == {"mystery_kernel": 20.0}
    assert found.kinds[OTHER] == 20.0 and found.wall == 100.0


def test_the_parts_of_a_step_on_the_cpu_add_up_to_its_time() -> None:
    step = training_step.training_step(Problem(CpuDevice(), TINY, 4, 32, torch.float32), EAGER)
    step()
    found = training_step.breakdown(CpuDevice(), step, steps=3)
    assert sum(found.kinds.values()) == pytest.approx(found.wall)
    idle = found.kinds[IDLE] / found.wall
    # Counting an op and what it calls would give less than nothing; missing the ops, nearly everything.
    assert -0.05 < idle < 0.6, found
    assert {"convolution forward", "convolution dgrad and wgrad", "optimizer"} < found.kinds.keys()
    assert found.kinds[OTHER] < 0.1 * found.wall, found.unrecognised


def test_time_in_which_nothing_runs_is_idle() -> None:
    x = torch.randn(64, 64)

    def step() -> None:
        torch.relu(x)
        time.sleep(0.02)

    found = training_step.breakdown(CpuDevice(), step, steps=2)
    assert found.kinds[IDLE] >= 0.5 * 0.02e6


def test_the_report_has_ours_and_eager() -> None:
    rows = training_step.measure(CpuDevice(), replace(PLAN, networks=(MISSING, TINY)))
    assert [row["candidate"] for row in rows] == [FUSED.name, EAGER.name]
    json.dumps(rows)
    for row in rows:
        assert row["network"] == TINY and row["step_us"] > 0
        assert sum(kind["share"] for kind in row["kinds"]) == pytest.approx(1.0)


def test_a_dry_run_shows_our_kernels_passes() -> None:
    plan = replace(PLAN, dtypes=(torch.bfloat16,))
    ours = {kind["kind"] for kind in training_step.measure(DryRunDevice(), plan)[0]["kinds"]}
    assert ours >= {"convolution forward", "convolution dgrad", "convolution wgrad"}


def test_too_large_a_batch_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    row, notes = training_step._row, []

    def limited(problem: Problem, *args: Any) -> dict[str, Any]:
        if problem.batch > 2:
            raise torch.OutOfMemoryError("out of memory")
        return row(problem, *args)

    monkeypatch.setattr(training_step, "_row", limited)
    rows = training_step.measure(CpuDevice(), replace(PLAN, batch=8), notes.append)
    assert {r["batch"] for r in rows} == {2}
    assert "n8; n4 instead" in notes[0] and "n4; n2 instead" in notes[1]
