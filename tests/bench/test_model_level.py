"""Whole networks: same weights everywhere, right order, sweeps that end with memory, and wrong networks are found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from resnet_cuda.bench import network_check, networks
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.levels import model
from resnet_cuda.bench.network_costs import costs
from resnet_cuda.bench.network_runs import Problem, training
from resnet_cuda.bench.plan import GPU, Plan
from resnet_cuda.bench.runner import Runner
from resnet_cuda.bench.workload import ABSENT, FAILED, OK, OURS, WRONG, Absent, Result, Workload
from tests.bench.tiny_networks import MISSING, PLAN, TINY, TINY_BOTTLENECK, by_candidate, registered

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def _tiny_networks() -> Iterator[None]:
    with registered():
        yield


class SmallDevice(CpuDevice):
    """A CPU with so much memory."""

    def __init__(self, free: int) -> None:
        super().__init__()
        self._free = free

    def free_memory(self) -> int:
        return self._free


class DeviceWithMemory(DryRunDevice):
    """Every call needs 1234 bytes."""

    def allocated(self) -> int:
        return 0

    def peak_memory(self, function: Callable[[], object]) -> int:
        function()
        return 1234


def run(plan: Plan, device: CpuDevice | None = None) -> tuple[list[Result], list[str]]:
    device = device or CpuDevice()
    results: list[Result] = []
    notes: list[str] = []
    Runner(device, plan, results.append, notes.append).run(model.workloads(device, plan))
    return results, notes


def complaints(results: list[Result]) -> list[str]:
    accepted = (OK, ABSENT)
    return [
        f"{r.workload} {r.pass_name} {r.candidate}: {r.status} {r.message}"
        for r in results
        if r.status not in accepted
    ]


@pytest.mark.parametrize("name", [TINY, TINY_BOTTLENECK])
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ways_to_run_a_network_agree(name: str, dtype: torch.dtype) -> None:
    results, _ = run(replace(PLAN, networks=(name,), dtypes=(dtype,)))
    assert complaints(results) == []
    names = by_candidate(results, "inference").keys()
    assert {OURS, "eager channels_last", "eager NCHW", "oneDNN fused"} < names
    assert by_candidate(results, "training step").keys() >= {OURS, "eager channels_last"}
    row = by_candidate(results, "inference")[OURS]
    assert row.images == 2 and row.facts["network"] == name and row.flops > 0


def test_real_networks_run_as_torchvision_and_timm_do() -> None:
    pytest.importorskip("timm")
    plan = replace(PLAN, networks=("resnet18",), image_size=64)
    workload = next(iter(model.workloads(CpuDevice(), plan)))
    rows: list[Result] = []
    Runner(CpuDevice(), plan, rows.append).run([workload])
    assert complaints(rows) == []
    assert {r.candidate for r in rows} >= {OURS, "timm"}
    assert "timm" in workload.facts["sources"]["timm"]


def test_a_network_without_a_model_is_one_absent_row() -> None:
    results, _ = run(replace(PLAN, networks=(TINY, MISSING), dtypes=DTYPES))
    (row,) = [r for r in results if r.facts["network"] == MISSING]
    assert row.status == ABSENT and MISSING in row.message


def test_weights_are_seeded_and_batch_norms_are_not_trivial() -> None:
    first, second = (networks.plain(TINY)[0] for _ in range(2))
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    bn = first.bn1
    assert isinstance(bn, nn.BatchNorm2d)
    for vector, trivial in (
        (bn.weight, 1),
        (bn.bias, 0),
        (bn.running_mean, 0),
        (bn.running_var, 1),
    ):
        assert vector is not None and (vector - trivial).abs().min() > 0
    first.conv1.weight.data.zero_()  # type: ignore[union-attr]
    assert networks.plain(TINY)[0].conv1.weight.abs().sum() > 0, "copies share weights"


def test_making_a_network_leaves_the_random_state_alone() -> None:
    networks._plain.cache_clear()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    networks.plain(TINY)
    assert torch.equal(torch.rand(1), expected)


def test_the_plain_comparison_comes_first_and_searching_compilers_last() -> None:
    plan = replace(PLAN, networks=(TINY, "resnet50"), image_size=64, sweep=(4,), compile=True)
    order = [
        (w.facts["network"], w.pass_name, w.images, [c.name for c in w.candidates][2:])
        for w in model.workloads(CpuDevice(), plan)
    ]
    passes = [(network, pass_name, images) for network, pass_name, images, _ in order]
    assert passes[:3] == [
        ("resnet50", "inference", 2),
        ("resnet50", "training step", 2),
        (TINY, "inference", 2),
    ]
    sweep = [i for i, p in enumerate(passes) if p[2] == 4]
    compiled = [i for i, (*_, names) in enumerate(order) if any("compile" in n for n in names)]
    searching = [i for i, (*_, names) in enumerate(order) if "compile max-autotune" in names]
    assert max(sweep) < min(compiled) and min(searching) > min(compiled)
    assert searching == list(range(searching[0], len(order)))


def test_compilers_are_left_out_on_request() -> None:
    plan = replace(PLAN, compile=False, slow_compile=True)
    names = {c.name for w in model.workloads(CpuDevice(), plan) for c in w.candidates}
    assert not [name for name in names if "compile" in name]


def test_a_dry_run_captures_graphs_and_lists_the_absent_engine() -> None:
    results, _ = run(replace(PLAN, dtypes=(torch.bfloat16,)), DryRunDevice())
    assert complaints(results) == []
    rows = by_candidate(results, "inference")
    assert rows[f"{OURS} + graph"].timing and rows["eager channels_last + graph"].timing
    assert rows["tensorrt"].status == ABSENT


def test_a_gpu_s_plan_trains_resnet50_beside_every_peer_with_and_without_graphs() -> None:
    plan = replace(GPU, networks=("resnet50",), sweep=())
    names = {
        candidate.name
        for workload in model.workloads(DryRunDevice(), plan)
        if workload.pass_name.startswith("training step") and workload.dtype == torch.bfloat16
        for candidate in workload.candidates
        if workload.images == 256
    }
    for variant in (networks.FUSED, networks.EAGER, networks.AUTOCAST, networks.COMPILED):
        assert {variant.name, f"{variant.name} + graph"} <= names, f"only {sorted(names)}"


def test_a_training_step_records_throughput_and_memory_of_everybody() -> None:
    plan = replace(PLAN, dtypes=(torch.bfloat16,))
    results, _ = run(plan, DeviceWithMemory())
    rows = [r for r in results if r.pass_name.startswith("training step") and r.timing]
    eager = {OURS, networks.EAGER.name, networks.AUTOCAST.name}
    assert {r.candidate for r in rows} >= eager | {f"{name} + graph" for name in eager}
    for row in rows:
        assert row.images == plan.batch and row.peak_memory == 1234, row


def test_a_sweep_ends_where_memory_does_and_says_so() -> None:
    cost = costs(TINY, 32)
    enough = cost.memory(4, torch.float32, training=True) / 0.9 + 2**16
    plan = replace(PLAN, sweep=(1, 4, 16, 64))
    results, notes = run(plan, SmallDevice(int(enough)))
    swept = [r for r in results if r.label == "sweep" and r.ours and r.pass_name == "training step"]
    assert [r.images for r in swept] == [1, 4], "a sweep does not go on after memory ended"
    assert any("the sweep ends below n16" in note and "training step" in note for note in notes)


def test_a_batch_that_does_not_fit_becomes_smaller() -> None:
    enough = costs(TINY, 32).memory(2, torch.float32, training=True) / 0.9 + 2**13
    results, notes = run(replace(PLAN, batch=8), SmallDevice(int(enough)))
    rows = by_candidate(results, "training step")
    assert rows[OURS].status == OK and rows[OURS].images == 2
    assert any("n8-32x32" in note and "n4-32x32 instead" in note for note in notes)


def broken(monkeypatch: pytest.MonkeyPatch, damage: Callable[[nn.Module], None]) -> None:
    """Our networks are built with a mistake."""
    build = networks.build

    def build_broken(variant: networks.Variant, *args: object) -> nn.Module:
        module = build(variant, *args)  # type: ignore[arg-type]
        if variant.is_ours:
            damage(module)
        return module

    monkeypatch.setattr(networks, "build", build_broken)


@pytest.mark.parametrize("dtype", DTYPES)
def test_wrong_logits_are_found(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda module: module.fc.bias.data.add_(0.2))  # type: ignore[union-attr]
    results, _ = run(replace(PLAN, dtypes=(dtype,)))
    rows = by_candidate(results, "inference")
    assert rows[OURS].status == WRONG and "logits" in rows[OURS].message
    assert rows["eager channels_last"].status == OK


def test_an_image_beyond_the_checked_ones_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_last(module: nn.Module) -> None:
        module.register_forward_hook(lambda m, x, y: torch.cat([y[:-1], y[:1]]))

    broken(monkeypatch, forget_last)
    results, _ = run(replace(PLAN, batch=6))
    row = by_candidate(results, "inference")[OURS]
    assert row.status == WRONG and "beyond the first 4" in row.message


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_wrong_gradient_is_found(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def scale(module: nn.Module) -> None:
        module.layer1[0].bn1.weight.register_hook(lambda grad: -grad)  # type: ignore[index]

    broken(monkeypatch, scale)
    results, _ = run(replace(PLAN, dtypes=(dtype,), batch=4))
    row = by_candidate(results, "training step")[OURS]
    assert row.status == WRONG and "gradient" in row.message, row.message


@pytest.mark.parametrize("checked", [4, 2])
def test_gradients_are_those_before_any_step(checked: int) -> None:
    problem = Problem(CpuDevice(), TINY, 4, 32, torch.float32)
    variant = replace(networks.EAGER, graph=False)
    step = training(problem, variant, checked).prepare()
    gradients = step()
    x, y = networks.images(checked, 32, torch.float32, CPU), networks.labels(checked, CPU)
    network = problem.build(variant, training=True)
    network_check.loss_of(network(x), y).backward()
    for name, expected in network_check.gradients_of(network).items():
        torch.testing.assert_close(gradients[name], expected)  # type: ignore[index]
    assert step() is None, "only the first call has something for the check"


def test_the_check_asks_torch_itself_where_its_candidate_is_missing() -> None:
    workload = model.inference_workload(
        Problem(CpuDevice(), TINY, 2, 32, torch.float32), (networks.FUSED, networks.EAGER)
    )
    ours = workload.candidates[0].prepare()()
    assert workload.check is not None
    assert workload.check({OURS: ours}) == {}
    assert OURS in workload.check({OURS: ours + 1})  # type: ignore[operator]


def test_costs_count_every_unit_and_grow_with_the_batch() -> None:
    cost = costs(TINY_BOTTLENECK, 32)
    network = networks.plain(TINY_BOTTLENECK)[0]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(cost.forward) == len(convolutions) and len(cost.classifiers) == 1
    macs = sum(_macs(network, m) for m in convolutions) + network.fc.weight.numel()
    assert cost.flops(3, training=False) == 3 * 2 * macs
    one, four = (cost.memory(n, torch.bfloat16, training=True) for n in (1, 4))
    assert one < four < 4 * one
    assert cost.training_batch(1) * cost.pixels >= 4


def _macs(network: nn.Module, convolution: nn.Conv2d) -> int:
    """Of one image."""
    found: list[int] = []
    weight = convolution.weight[0].numel()
    handle = convolution.register_forward_hook(lambda m, x, y: found.append(y.numel() * weight))
    network.eval()(torch.randn(1, 3, 32, 32))
    handle.remove()
    return found[0]


def test_freezing_is_in_force_only_while_compiling() -> None:
    config = pytest.importorskip("torch._inductor.config")
    before = config.freezing
    with networks.compiling("freezing"):
        assert config.freezing
    assert config.freezing == before
    with pytest.raises(ZeroDivisionError), networks.compiling("freezing"):
        raise ZeroDivisionError
    assert config.freezing == before


def test_timm_is_absent_where_it_has_no_such_network() -> None:
    pytest.importorskip("timm")
    with pytest.raises(Absent, match=f"timm has no {TINY}"):
        networks.timm_equivalent(TINY)


def test_workloads_know_what_they_need() -> None:
    problem = Problem(CpuDevice(), TINY, 4, 32, torch.float32)
    workload: Workload = model.training_workload(problem, (networks.FUSED, networks.EAGER))
    assert workload.memory > 0 and workload.images == 4
    assert sum(flops for flops, _ in workload.parts) == workload.flops
    assert workload.smaller is not None and workload.smaller().images == 2
    assert FAILED not in workload.facts.values()


def test_compiled_peers_are_compiled_for_one_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []

    def compile_(
        module: nn.Module,
        *,
        dynamic: bool,
        mode: str | None = None,
        options: dict[str, object] | None = None,
    ) -> nn.Module:
        calls.append((mode or options, dynamic, module.training))
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    monkeypatch.setattr(torch._dynamo, "reset", lambda: calls.append("reset"))
    results, _ = run(replace(PLAN, compile=True, slow_compile=True))
    assert complaints(results) == []
    names = {r.candidate for r in results}
    assert names >= {"compile", "compile freezing", "compile max-autotune"}
    assert calls == [
        *("reset", (None, False, False)),
        *("reset", (None, False, True)),
        *("reset", ({"freezing": True}, False, False)),
        *("reset", ("max-autotune", False, False)),
    ], "without a reset a frozen network runs the code of the one before it, which is not frozen"
    ours = [r for r in results if r.ours and "compile" in r.versus]
    assert len(ours) == 2, "compiled peers are compared with ours of the same run"
