"""Residual blocks as workloads: every kind, with its peers, on the same parameters, and judged by every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from resnet_cuda import reference
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.levels import block
from resnet_cuda.bench.modes import INFERENCE, STEP, Made
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import ABSENT, OK, OURS, WRONG, Workload
from tests.bench.tiny_levels import (
    EAGER,
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
from tests.bench.tiny_networks import TINY
from tests.bench.tiny_networks import registered as small_networks

LENDERS = {reference.BasicBlock: TINY, reference.Bottleneck: TINY}


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(block, "_LENDERS", LENDERS)
    with registered(), small_networks():
        yield


def workloads(device: Device, plan: Plan = PLAN) -> list[Workload]:
    return [w for w in block.workloads(device, plan) if plan.wants(w)]


def test_every_kind_of_block_is_there_with_and_without_a_projection() -> None:
    found = workloads(Cpu(), replace(PLAN, networks=(TINY,)))
    kinds = [(*w.name.split()[::2], w.pass_name) for w in found]
    assert {kind[:2] for kind in kinds} == {
        ("BasicBlock", "identity"),
        ("BasicBlock", "projection"),
    }
    found = workloads(Cpu())
    kinds = [(*w.name.split()[:3:2], w.pass_name, w.count) for w in found]
    for mode in (INFERENCE, STEP):
        of_mode = [(kind, shortcut, count) for kind, shortcut, name, count in kinds if name == mode]
        assert of_mode == [
            ("Bottleneck", "projection", 1),
            ("Bottleneck", "identity", 2),
            ("Bottleneck", "projection", 1),
            ("Bottleneck", "identity", 1),
            ("BasicBlock", "identity", 1),
            ("BasicBlock", "projection", 1),
        ]
    owners = {w.name.split()[0]: w.facts["network"] for w in found}
    assert owners == {"Bottleneck": PLAN.networks[0], "BasicBlock": TINY}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", [Cpu(), DryRun()], ids=lambda d: d.kind)
def test_all_ways_to_compute_a_block_agree(device: Device, dtype: torch.dtype) -> None:
    results, notes = run(block.workloads, device, replace(PLAN, dtypes=(dtype,)))
    assert complaints(results) == [] and notes == []
    assert {r.status for r in results if r.ours} == {OK}
    absent = {(r.candidate, r.message) for r in results if r.status == ABSENT}
    cudnn = {("cudnn_convolution_add_relu", "there is no cuDNN here")}
    assert absent == (cudnn if device.kind == "dry-run" else set())


def test_each_mode_has_the_peers_that_exist_for_it() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    for device, library in ((Cpu(), "oneDNN fused"), (DryRun(), "cudnn_convolution_add_relu")):
        for workload in workloads(device, replace(PLAN, dtypes=dtypes)):
            wanted = EAGER | (GRAPHS if device.has_graphs else set())
            if workload.pass_name == INFERENCE:
                wanted = wanted | {library}
                # apex has neither other dtypes, nor other blocks, nor a stride in the 3x3.
                bottleneck = workload.name.startswith("Bottleneck") and " s2" not in workload.name
                if device.kind != "cpu" and workload.dtype == torch.float16 and bottleneck:
                    wanted = wanted | {"apex"}
            elif workload.dtype == torch.bfloat16:
                wanted = wanted | {"autocast bfloat16 channels_last"}
            assert names(workload) == wanted, workload.title


def test_apex_is_absent_with_the_reason() -> None:
    plan = replace(
        PLAN,
        dtypes=(torch.float16,),
        only=(f"block Bottleneck n2-32x8x8-8-32 identity {INFERENCE}",),
    )
    results, _ = run(block.workloads, DryRun(), plan)
    (row,) = [r for r in results if r.candidate == "apex"]
    assert row.status == ABSENT and "apex" in row.message


def test_nobody_records_gradients_at_inference_and_peers_copy_nothing() -> None:
    for workload in workloads(Cpu()):
        for candidate in workload.candidates:
            calls = timed(Cpu(), candidate)
            title = f"{workload.title}, {candidate.name}"
            if workload.pass_name == INFERENCE:
                assert not any(call.grad_mode for call in calls), title
            if not candidate.ours:
                assert copies(calls) == [], title


def test_eager_adds_in_place_as_torchvision_does() -> None:
    for workload in workloads(Cpu()):
        (eager,) = [c for c in workload.candidates if c.name == "eager channels_last"]
        added = [
            c.name
            for c in timed(Cpu(), eager)
            if c.name.startswith("aten::add") and c.args[0].dim() == 4
        ]
        forward = added[0]
        assert forward == "aten::add_.Tensor", workload.title


def test_the_library_overwrites_a_shortcut_only_where_it_is_its_own() -> None:
    for workload in workloads(Cpu(), replace(PLAN, only=(f" {INFERENCE} ",))):
        (library,) = [c for c in workload.candidates if c.name == "oneDNN fused"]
        called = {call.name for call in timed(Cpu(), library)}
        in_place = "mkldnn::_convolution_pointwise_.binary"
        assert (in_place in called) == ("projection" in workload.name), workload.title


def test_inputs_are_channels_last_and_nowhere_all_zero() -> None:
    for workload in workloads(Cpu()):
        for name, tensor in inputs(workload).items():
            assert tensor.any(), f"{workload.title}: {name} is all zeros"
            if tensor.dim() == 4:
                assert tensor.is_contiguous(memory_format=torch.channels_last), (
                    f"{workload.title}: {name}"
                )


def test_in_training_batches_grow_until_statistics_mean_something() -> None:
    for workload in workloads(Cpu(), replace(PLAN, batch=1)):
        dz = inputs(workload).get("dz")
        assert (dz is not None) == (workload.pass_name == STEP)
        if dz is None:
            assert workload.images == 1
        else:
            assert dz.numel() // dz.shape[1] >= 64 and dz.shape[0] == workload.images


def test_where_memory_is_short_the_batch_is_halved_and_a_note_says_so() -> None:
    whole = workloads(Cpu(), replace(PLAN, batch=8))[0]
    assert whole.smaller is not None
    half = whole.smaller()
    assert half is not None and half.images == 4 and half.facts == whole.facts
    results, notes = run([whole], Cpu(int(half.memory / 0.9) + 2**12))
    assert complaints(results) == [] and {r.images for r in results} == {4}
    assert len(notes) == 1 and f"{half.name} instead" in notes[0]


# Ours with a mistake.


def broken(monkeypatch: pytest.MonkeyPatch, mistake: Any) -> None:
    """mistake: what was made -> what is made instead."""
    make = block._make

    def make_broken(of: Any, fused: bool, *args: Any) -> Made:
        made = make(of, fused, *args)
        return mistake(made) if fused else made

    monkeypatch.setattr(block, "_make", make_broken)


@pytest.mark.parametrize("mode", [INFERENCE, STEP])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_block_that_is_a_little_wrong_is_found_and_not_timed(
    mode: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, lambda made: made._replace(call=lambda: made.call() * 1.05))
    results, _ = run(block.workloads, Cpu(), replace(PLAN, dtypes=(dtype,), only=(f" {mode} ",)))
    mine = [r for r in results if r.ours]
    assert len(mine) == 6 and {r.status for r in mine} == {WRONG}
    assert all(r.timing is None and r.message.startswith("z (") for r in mine)
    assert complaints([r for r in results if not r.ours]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_single_gradient_that_is_wrong_is_found(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 5% where no inner ReLU lies before it; through gates that rounding flips, and so few elements, by 25%."""
    plan = replace(PLAN, dtypes=(dtype,), only=(f"projection s2 {STEP} ",))
    victims = [n for n in inputs(workloads(Cpu(), plan)[0]) if "running" not in n and n != "dz"]
    assert len(victims) == 13, "x and three parameters of each of four convolutions"
    for victim in victims:
        direct = victim.startswith(("conv3.", "bn3.", "downsample."))
        if not direct and dtype == torch.bfloat16:
            continue
        factor = 1.05 if direct else 1.25

        def hooked(made: Made, victim: str = victim, factor: float = factor) -> Made:
            made.leaves[victim].register_hook(lambda grad: grad * factor)
            return made

        with monkeypatch.context() as context:
            broken(context, hooked)
            workload = workloads(Cpu(), plan)[0]
            (ours,) = [c for c in workload.candidates if c.ours]
            assert workload.check is not None
            found = workload.check({OURS: ours.prepare()()})
        what = f"d{victim} (" if direct else "gradient"
        assert what in found.get(OURS, ""), f"{victim}: {found}"
