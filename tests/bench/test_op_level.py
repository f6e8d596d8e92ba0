"""Public ops as workloads: all of them, in every mode, with their peers, under the same conditions, and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_cuda import ops
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.levels import op
from resnet_cuda.bench.modes import FORWARD, INFERENCE, STEP, Made
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import ABSENT, OK, WRONG, Workload
from tests.bench.tiny_levels import (
    EAGER,
    EVERY_KIND,
    GRAPHS,
    PLAN,
    Cpu,
    DryRun,
    complaints,
    copies,
    inputs,
    names,
    registered,
    run,
    timed,
)

ELSEWHERE = {
    "ConvUnit": "a description",
    "FoldedConv": "a cache",
    "Identity": "a description",
    "NormUnit": "a description",
    "ZeroPad": "a description",
    "bottleneck_block": "one launch, which the kernel level times, or three ops, each timed here",
    "bottleneck_expand_reduce": "one launch, which the kernel level times, or two ops, each timed here",
    "conv_unit": "what conv_bn_relu runs, and what is timed under its name",
    "residual_branch": "the block level's",
}


@pytest.fixture(autouse=True)
def _tiny_network() -> Iterator[None]:
    with registered():
        yield


def workloads(device: Device, plan: Plan = PLAN) -> list[Workload]:
    return [w for w in op.workloads(device, plan) if plan.wants(w)]


def test_every_public_op_is_measured_in_every_mode() -> None:
    measured: dict[str, set[str]] = {}
    for workload in workloads(Cpu()):
        assert workload.name.split()[0] == workload.facts["op"], "`--only` finds ops by name"
        measured.setdefault(workload.facts["op"], set()).add(workload.pass_name)
    assert measured.keys() == set(ops.__all__) - ELSEWHERE.keys()
    assert all(modes == {INFERENCE, FORWARD, STEP} for modes in measured.values()), measured


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", [Cpu(), DryRun()], ids=lambda d: d.kind)
def test_all_ways_to_compute_an_op_agree(device: Device, dtype: torch.dtype) -> None:
    results, notes = run(op.workloads, device, replace(PLAN, dtypes=(dtype,)))
    assert complaints(results) == [] and notes == []
    assert {r.status for r in results if r.ours} == {OK}
    absent = {(r.candidate, r.message) for r in results if r.status == ABSENT}
    expected = {("cudnn_convolution_relu", "there is no cuDNN here")}
    expected |= {("cudnn_convolution_add_relu", "there is no cuDNN here")}
    assert absent == (expected if device.kind == "dry-run" else set())


def test_the_cpu_has_its_fused_library_wherever_a_convolution_is() -> None:
    for workload in workloads(Cpu()):
        convolves = workload.facts["op"] in (
            "conv_bn_relu",
            "bottleneck_reduce",
            "bottleneck_expand",
        )
        library = {"oneDNN fused"} if convolves and workload.pass_name == INFERENCE else set()
        assert names(workload) == EAGER | library, workload.title


def test_a_gpu_s_plan_has_graphs_and_cudnn_s_fused_calls_where_a_relu_follows() -> None:
    for workload in workloads(DryRun()):
        library = names(workload) - EAGER - GRAPHS
        relu = "without relu" not in workload.name
        convolves = workload.facts["op"] in (
            "conv_bn_relu",
            "bottleneck_reduce",
            "bottleneck_expand",
        )
        wanted = set()
        if convolves and relu and workload.pass_name == INFERENCE:
            adds = "residual" in workload.name or "projection" in workload.name
            wanted = {"cudnn_convolution_add_relu" if adds else "cudnn_convolution_relu"}
        assert library == wanted and names(workload) > GRAPHS, workload.title


def test_autocast_is_compared_with_its_own_arithmetic_only() -> None:
    """In bfloat16, with activations as a network hands them on: nothing but filters and their gradients is cast."""
    plan = replace(PLAN, dtypes=(torch.float32, torch.bfloat16), first_layers=1)
    found = 0
    for workload in workloads(Cpu(), plan):
        autocast = [c for c in workload.candidates if c.name.startswith("autocast")]
        wanted = workload.dtype == torch.bfloat16 and workload.pass_name == STEP
        assert len(autocast) == wanted, workload.title
        for candidate in autocast:
            calls = timed(Cpu(), candidate)
            cast = [c for c in calls if c.name == "aten::_to_copy" and c.args[0].dim() == 4]
            filters = [t.shape for n, t in inputs(workload).items() if n.endswith("weight")]
            assert sorted(c.args[0].shape for c in cast) == sorted(2 * filters), (
                f"{workload.title}: each filter once, and its gradient"
            )
            found += bool(filters)
    assert found >= 3


def test_nobody_records_gradients_at_inference() -> None:
    for workload in workloads(Cpu(), replace(PLAN, only=(f" {INFERENCE} ",))):
        for candidate in workload.candidates:
            calls = timed(Cpu(), candidate)
            assert calls and not any(call.grad_mode for call in calls), (
                f"{workload.title}, {candidate.name}: the others run without gradients"
            )


def test_peers_convert_and_copy_nothing_while_timed() -> None:
    for workload in workloads(Cpu()):
        for candidate in workload.candidates:
            if not candidate.ours:
                assert copies(timed(Cpu(), candidate)) == [], f"{workload.title}, {candidate.name}"


def test_eager_adds_in_place_as_torchvision_does() -> None:
    for workload in workloads(Cpu(), replace(PLAN, only=("+ residual", "+ projection"))):
        (eager,) = [c for c in workload.candidates if c.name == "eager channels_last"]
        called = [call.name for call in timed(Cpu(), eager)]
        assert "aten::add_.Tensor" in called and "aten::add.Tensor" not in called, workload.title


def test_inputs_are_channels_last_and_nowhere_all_zero() -> None:
    for workload in workloads(Cpu()):
        for name, tensor in inputs(workload).items():
            assert tensor.any(), f"{workload.title}: {name} is all zeros"
            if tensor.dim() == 4:
                assert tensor.is_contiguous(memory_format=torch.channels_last), (
                    f"{workload.title}: {name}"
                )


# Ours with a mistake.


def broken(monkeypatch: pytest.MonkeyPatch, mistake: Any) -> None:
    """mistake: (what ours computes, the leaves) -> what it says instead."""
    make = op._make_ours

    def make_broken(*args: Any) -> Made:
        made = make(*args)
        return Made(lambda: mistake(made.call(), made.leaves), made.leaves)

    monkeypatch.setattr(op, "_make_ours", make_broken)


@pytest.mark.parametrize("mode", [INFERENCE, FORWARD, STEP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_op_that_is_a_little_wrong_is_found_and_not_timed(
    mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, lambda z, leaves: z * 1.05)
    plan = replace(PLAN, dtypes=(dtype,), first_layers=2, only=(f" {mode} ",))
    results, _ = run(op.workloads, Cpu(), plan)
    mine = [r for r in results if r.ours]
    assert mine and {r.status for r in mine} == {WRONG}
    assert all(r.timing is None and r.message.startswith("z (") for r in mine)
    assert complaints([r for r in results if not r.ours]) == []


@pytest.mark.parametrize("leaf", ["x", "weight", "gamma", "beta", "residual", "projection_weight"])
def test_a_wrong_gradient_of_any_input_is_found(leaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(z: Tensor, leaves: dict[str, Tensor]) -> Tensor:
        """The same z, but the leaf's gradient is off by the sum of dz."""
        if leaf not in leaves:
            return z
        return z + 0.2 * (leaves[leaf] - leaves[leaf].detach()).sum()

    broken(monkeypatch, shifted)
    results, _ = run(op.workloads, Cpu(), replace(PLAN, only=(f" {STEP} ",)))
    wrong = [r for r in results if r.ours and r.status == WRONG]
    assert wrong and all(r.message.startswith(f"d{leaf} (") for r in wrong), [
        r.message for r in wrong
    ]
    affected = [
        w for w in workloads(Cpu(), replace(PLAN, only=(f" {STEP} ",))) if leaf in inputs(w)
    ]
    of_images = 2 if leaf == "x" else 0  # the first convolution, alone and in its stem: no gradient
    assert len(wrong) == len(affected) - of_images


# Sizes.


def test_batches_grow_until_statistics_mean_something() -> None:
    for workload in workloads(Cpu(), replace(PLAN, batch=1)):
        if workload.pass_name == INFERENCE:
            assert workload.images == 1, workload.title
        elif "x" in inputs(workload) and "gamma" in inputs(workload):
            z = inputs(workload).get("dz")
            if z is not None:
                assert z.numel() // z.shape[1] >= 64, workload.title
                assert z.shape[0] == workload.images and f"n{z.shape[0]}-" in workload.name


def test_where_memory_is_short_the_batch_is_halved_and_a_note_says_so() -> None:
    plan = replace(PLAN, batch=8, only=("conv_bn_relu n8-3x32x32", "conv_bn_relu n4-3x32x32"))
    (whole, *_) = workloads(Cpu(), replace(plan, only=(*plan.only,)))
    assert whole.smaller is not None
    half = whole.smaller()
    assert half is not None and half.images == 4 and half.facts == whole.facts
    small = Cpu(int(half.memory / 0.9) + 2**12)
    results, notes = run([whole], small)
    assert complaints(results) == [] and {r.images for r in results} == {4}
    (note,) = notes
    assert whole.name in note and f"{half.name} instead" in note and "are free" in note
    assert results[0].facts["network"] == EVERY_KIND, "it still counts for its network"


def test_a_batch_that_statistics_need_is_not_tried_again() -> None:
    plan = replace(PLAN, batch=2, only=(f"bn_relu n4-64x4x4 + residual {STEP} ",))
    (last,) = workloads(Cpu(), plan)
    assert last.images == 4 and last.smaller is not None and last.smaller() is None
    results, notes = run([last], Cpu(16))
    assert {r.status for r in results} == {"failed"} and notes == []


# Compilers.


def test_compilers_take_part_in_the_first_layer_and_freeze_at_inference_only() -> None:
    plan = replace(PLAN, compile=True, slow_compile=True)
    compiled: dict[tuple[str, str], set[str]] = {}
    for workload in workloads(Cpu(), plan):
        found = {name for name in names(workload) if name.startswith("compile")}
        if found:
            compiled[workload.name, workload.pass_name] = found
    first = next(iter(compiled))[0]
    assert compiled == {
        (first, INFERENCE): {"compile", "compile freezing", "compile max-autotune"},
        (first, STEP): {"compile", "compile max-autotune"},
    }


def test_a_compiled_function_gets_constants_as_a_network_has_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Filters are what freezing takes for constants. Activations stay where they are in the CUDA graph of max-autotune;
    frozen ones would be constants, too."""
    static: list[Tensor] = []
    compiled: list[Any] = []

    def compile_(function: Any, **options: Any) -> Any:
        compiled.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch._dynamo, "mark_static_address", static.append)
    plan = replace(PLAN, compile=True, slow_compile=True, first_layers=1, only=(f" {INFERENCE} ",))
    workload = workloads(Cpu(), plan)[0]
    results, _ = run([workload], Cpu())
    assert complaints(results) == [] and len(compiled) == 3
    (frozen,) = [f for f in compiled if isinstance(f, torch.nn.Module)]
    assert dict(frozen.named_buffers()).keys() == inputs(workload).keys() - {"x"}
    assert [tensor.shape for tensor in static] == [inputs(workload)["x"].shape], "max-autotune's"
