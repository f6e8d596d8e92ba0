"""Kernels as workloads: every pass on every layer, nothing but the pass is timed, and wrong kernels are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import _fakes, models
from resnet_cuda.bench.levels import kernel
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import ABSENT, OK, OURS, WRONG, Workload
from resnet_cuda.testing.problems import resnet_layers
from tests.bench.tiny_levels import (
    EVERY_KIND,
    PLAN,
    Cpu,
    DryRun,
    complaints,
    copies,
    inputs,
    registered,
    run,
    timed,
)

DRY = DryRun()
NO_KERNELS = {
    "_allows_tf32": "tells torch's switch",
    "_build_info": "tells what was compiled",
    "_select_emulator": "chooses the library of kernels",
    "_start_early": "lets kernels start early, or not",
}
UNUSED = {
    ("_conv_dgrad", 1): "sums of a fused backward, which no op launches",
    ("_closed_form_finalize", 1): "what a rank exceeds the mean of several by; here is one",
    ("_closed_form_backward_reduce", 1): "what the filters make of that excess",
}
NAMESPACE = "resnet_cuda::"


@pytest.fixture(autouse=True)
def _tiny_network() -> Iterator[None]:
    with registered():
        yield


def workloads(plan: Plan = PLAN) -> list[Workload]:
    return [w for w in kernel.workloads(DRY, plan) if plan.wants(w)]


def ours(workload: Workload) -> Any:
    return next(c for c in workload.candidates if c.ours)


def test_every_pass_of_the_kernels_is_measured_alone_under_its_name() -> None:
    measured = set()
    for workload in workloads():
        calls = [call.name for call in timed(DRY, ours(workload))]
        assert calls == [f"{NAMESPACE}_{workload.pass_name}"], (
            f"{workload.title}: only the launch itself belongs into what is timed"
        )
        measured |= set(calls)
    registered_ops = {
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith(NAMESPACE)
    }
    missing = registered_ops - measured - {NAMESPACE + name for name in NO_KERNELS}
    assert not missing, f"no workload of the kernel level launches {sorted(missing)}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dry_run_finds_every_kernel_right(dtype: torch.dtype) -> None:
    odd = 40  # pixels: tiles of statistics that are not full
    results, notes = run(kernel.workloads, DRY, replace(PLAN, dtypes=(dtype,), image_size=odd))
    assert complaints(results) == [] and notes == []
    assert {r.status for r in results if r.ours} == {OK}
    for result in results:
        if result.status == ABSENT:
            assert result.candidate.startswith("cudnn_convolution") and "cuDNN" in result.message


def test_peers_run_in_both_layouts_and_convert_nothing_while_timed() -> None:
    for workload in workloads():
        by_name = {c.name: c for c in workload.candidates}
        assert by_name.keys() >= {OURS, "eager channels_last", "eager NCHW"}
        for name in ("eager channels_last", "eager NCHW"):
            found = copies(timed(DRY, by_name[name]))
            if workload.pass_name == "global_avg_pool_backward":
                assert len(found) == 1, "storing the gradient is the pass itself"
            else:
                assert found == [], f"{workload.title}, {name}"


def test_inputs_are_channels_last_and_nowhere_all_zero() -> None:
    for workload in workloads():
        for name, tensor in inputs(workload).items():
            assert tensor.any(), f"{workload.title}: {name} is all zeros"
            if tensor.dim() == 4:
                assert tensor.is_contiguous(memory_format=torch.channels_last), (
                    f"{workload.title}: {name} would be converted by whoever needs it"
                )


def test_library_calls_take_part_where_a_relu_follows_a_convolution() -> None:
    for workload in workloads():
        names = {c.name for c in workload.candidates if c.name.startswith("cudnn")}
        wanted = set()
        if workload.facts.get("op") == "affine" and "relu" in workload.name:
            adds = "residual" in workload.name or "projection" in workload.name
            wanted = {"cudnn_convolution_add_relu" if adds else "cudnn_convolution_relu"}
        assert names == wanted, workload.title


# Wrong kernels.


def _damaged(tensor: Tensor) -> Tensor:
    """One element off by a tenth of the largest; of a mask, one bit."""
    wrong = tensor.clone()
    flat = wrong.permute(0, 2, 3, 1).reshape(-1) if wrong.dim() == 4 else wrong.reshape(-1)
    if wrong.dtype == torch.uint8:
        flat[0] ^= 1
    else:
        flat[flat.abs().argmax()] *= 0.9
    if wrong.dim() == 4:
        n, c, h, w = wrong.shape
        return flat.view(n, h, w, c).permute(0, 3, 1, 2)
    return flat.view(wrong.shape)


def _outputs(fake: Callable[..., Any]) -> int:
    """How many tensors a raw op returns."""
    return str(fake.__annotations__["return"]).count("Tensor")


@pytest.mark.parametrize(
    ("name", "index"),
    [
        (fake.__name__, i)
        for fake in _fakes.FAKES
        for i in range(_outputs(fake))
        if (fake.__name__, i) not in UNUSED
    ],
)
def test_one_wrong_element_of_any_output_is_found(
    name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(torch.ops.resnet_cuda, name)
    damaged: set[str] = set()
    current = ""

    def broken(*args: Any, **options: Any) -> Any:
        output = real(*args, **options)
        tensors = [output] if isinstance(output, Tensor) else list(output)
        if tensors[index].numel():
            damaged.add(current)
            tensors[index] = _damaged(tensors[index])
        return tensors[0] if isinstance(output, Tensor) else tuple(tensors)

    monkeypatch.setattr(torch.ops.resnet_cuda, name, broken)
    # The winners of a pool show in the gradient that they route.
    victim = "max_pool_backward" if (name, index) == ("_max_pool_forward", 1) else name[1:]

    def one_after_the_other() -> Iterator[Workload]:
        nonlocal current
        for workload in workloads(replace(PLAN, only=(f" {victim} ",))):
            current = workload.name
            yield workload

    rows, _ = run(one_after_the_other(), DRY)
    assert damaged, f"no workload looks at output {index} of {name}"
    for row in rows:
        wanted = {WRONG} if row.ours and row.workload in damaged else {OK, ABSENT}
        assert row.status in wanted, f"{row.workload} {row.candidate}: {row.status} {row.message}"
        assert row.timing is None or row.status == OK


@pytest.mark.parametrize("buffer", ["running_mean", "running_var"])
def test_running_statistics_that_do_not_move_are_found(
    buffer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.ops.resnet_cuda._bn_finalize
    position = {"running_mean": 4, "running_var": 5}[buffer]

    def forgetful(*args: Any) -> Any:
        before = args[position].clone()
        output = real(*args)
        args[position].copy_(before)
        return output

    monkeypatch.setattr(torch.ops.resnet_cuda, "_bn_finalize", forgetful)
    rows, _ = run(workloads(replace(PLAN, only=(" bn_finalize ",))), DRY)
    assert {row.status for row in rows if row.ours} == {WRONG}
    assert all(row.message.startswith(buffer) for row in rows if row.ours)


def test_a_kernel_that_overwrites_its_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.ops.resnet_cuda._add_relu_forward

    def in_place(x: Tensor, residual: Tensor, mask: bool) -> Any:
        z, bits = real(x, residual, mask)
        x.data.copy_(z)  # unseen by the version counter, as a kernel's writes are
        return z, bits

    monkeypatch.setattr(torch.ops.resnet_cuda, "_add_relu_forward", in_place)
    rows, _ = run(workloads(replace(PLAN, only=(" add_relu_forward ",))), DRY)
    assert all("wrote to the inputs x" in row.message for row in rows if row.ours)


# Which layers, and what they cost.


@pytest.mark.parametrize("depth", [18, 50])
def test_every_convolution_of_a_network_is_there_as_often_as_the_network_has_it(
    depth: int,
) -> None:
    name = f"resnet{depth}"
    plan = replace(PLAN, networks=(name,), batch=2, image_size=224)
    by_pass: dict[tuple[str, str], dict[str, int]] = {}
    for workload in kernel.workloads(DRY, plan):
        if workload.facts.get("network") == name:
            key = (workload.pass_name, workload.facts.get("op", ""))
            layers = by_pass.setdefault(key, {})
            assert workload.name not in layers, f"{workload.title} is there twice"
            layers[workload.name] = workload.count
    expected = {str(conv): conv.count for conv in resnet_layers(depth, batch=2)}
    assert by_pass["conv_wgrad", ""] == expected
    assert {
        n.removesuffix(" statistics"): c for n, c in by_pass["conv_fprop", "statistics"].items()
    } == expected
    first = next(iter(expected))
    assert by_pass["conv_dgrad", ""] == {n: c for n, c in expected.items() if n != first}, (
        "images need no gradient"
    )
    with torch.device("meta"):
        modules = list(models.create_model(name).modules())
    convolutions = sum(isinstance(m, nn.Conv2d) for m in modules)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in modules)
    assert sum(expected.values()) == convolutions
    assert sum(by_pass["conv_fprop", "affine"].values()) == convolutions
    for pass_name in ("bn_statistics", "bn_finalize", "bn_apply", "bn_backward_reduce"):
        assert sum(by_pass[pass_name, ""].values()) == norms, pass_name
    blocks = sum(type(m).__name__ in ("BasicBlock", "Bottleneck") for m in modules)
    assert sum(by_pass["add_relu_forward", ""].values()) == blocks
    if depth == 50:
        assert sum(by_pass["bottleneck_expand", "affine"].values()) == blocks


def one(plan: Plan) -> Workload:
    (workload,) = workloads(plan)
    return workload


def test_flops_and_bytes_are_those_of_one_perfect_pass() -> None:
    plan = replace(PLAN, dtypes=(torch.bfloat16,), batch=2, image_size=32)
    conv = one(replace(plan, only=("n2-8x8x8-k32-1x1 + residual affine relu conv_fprop ",)))
    outputs = 2 * 32 * 8 * 8
    assert conv.flops == 2 * outputs * 8
    x, weight, vectors = 2 * 8 * 8 * 8 * 2, 32 * 8 * 2, 2 * 32 * 4
    assert conv.bytes == x + weight + vectors + 2 * (2 * outputs), "z and the residual"
    norm = one(replace(plan, only=("n2-32x8x8 + residual relu bn_backward_apply ",)))
    assert norm.flops == 0, "what moves data only is judged by its traffic"
    tensors, mask, coefficients = 4 * outputs * 2, outputs // 8, 4 * 32 * 4
    assert norm.bytes == tensors + mask + coefficients, "dz, y, dy, dresidual"
    for workload in (conv, norm):
        assert list(workload.parts) == [(workload.flops, workload.bytes)]


def test_layers_of_another_network_do_not_count_for_its_total() -> None:
    plan = replace(PLAN, networks=("resnet18",), image_size=32)
    lent = [w for w in workloads(plan) if w.facts["layer_of"] == EVERY_KIND]
    expands = {"bottleneck_block", "bottleneck_expand", "bottleneck_expand_reduce"}
    expands |= {"bottleneck_expand_wgrad", "bottleneck_expand_dgrad", "closed_form_finalize"}
    expands |= {"closed_form_backward_reduce", "closed_form_backward_finalize"}
    assert {w.pass_name for w in lent} == {*expands, "bottleneck_gram", "conv_fprop"}
    assert all("network" not in w.facts for w in lent)
    assert all(
        w.facts["network"] == "resnet18"
        for w in workloads(plan)
        if w not in lent and w.facts["layer_of"] != EVERY_KIND
    )


def test_a_few_layers_are_no_total_either() -> None:
    few = workloads(replace(PLAN, first_layers=1))
    assert few and all("network" not in w.facts for w in few)


def test_there_is_nothing_to_measure_on_a_plain_cpu() -> None:
    assert list(kernel.workloads(Cpu(), PLAN)) == []
