"""Whole networks: inference and a training step, over batch sizes, against everything else that runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from resnet_cuda import models
from resnet_cuda.bench import network_check, networks, peers
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.network_check import Check, GradientsRule, LogitsRule
from resnet_cuda.bench.network_costs import Costs, costs
from resnet_cuda.bench.network_runs import Problem, inference, training
from resnet_cuda.bench.networks import Variant
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.workload import OURS, Absent, Candidate, Workload

_FIRST = "resnet50"  # the network that everybody knows, where a budget ends the run
_CHECKED_IMAGES = 4  # of an inference batch: images do not depend on each other
# What a float64 training step may cost to check the whole batch, in FLOP; else a small one is checked.
_CHECK_FLOPS = {"cuda": 1e13}
_CHECK_FLOPS_ON_CPU = 5e10


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """In the order of what matters most: the plain comparison of each network, batch sweeps of the first two, then
    the peers that compile (the first two), those last that search for the fastest kernels."""
    missing = [name for name in plan.networks if name not in networks.available()]
    ordered = [name for name in plan.networks if name not in missing]
    ordered.sort(key=lambda name: name != _FIRST)
    of = functools.partial(_Network, device, plan)
    for network in (of(name, dtype) for name in ordered for dtype in plan.dtypes):
        yield network.inference(_inference_variants(device, network.dtype))
        yield network.training(_training_variants(device, network.dtype))
    for name in ordered:
        pair = _with_graphs(device, networks.AUTOCAST_PAIR)
        yield of(name, torch.bfloat16).training(pair, "training step, autocast")
    for name in missing:
        yield _absent(name, plan.dtypes[0])
    for network in (of(name, dtype) for name in ordered[:2] for dtype in plan.dtypes):
        yield from network.sweep()
    for variant, in_training in _compilers(device, plan):
        for network in (of(name, dtype) for name in ordered[:2] for dtype in plan.dtypes):
            makers = [network.inference] + ([network.training] if in_training else [])
            for make in makers:
                # One compiler at a time, and nothing left of the last one: code that was compiled for a network
                # serves every other network of the same structure, in whatever mode it is to be compiled.
                torch._dynamo.reset()
                variants: Sequence[Variant] = (networks.FUSED, networks.EAGER, variant)
                if variant is networks.COMPILED:  # max-autotune captures by itself
                    variants = _with_graphs(device, variants)
                workload = make(variants)
                workload.label = variant.name
                yield workload


def _compilers(device: Device, plan: Plan) -> Iterator[tuple[Variant, bool]]:
    """Peers that compile, and whether they train, too."""
    if plan.compile:
        yield networks.COMPILED, True
        yield networks.FROZEN, False
    if plan.compile and plan.slow_compile:
        # On the CPU there is little to search for, and nothing in a training step but the classifier.
        yield networks.AUTOTUNED, device.kind == "cuda"


def _inference_variants(device: Device, dtype: torch.dtype) -> list[Variant]:
    variants = [*networks.EAGER_PEERS, networks.FOLDED]
    if dtype == torch.bfloat16:
        variants.append(networks.AUTOCAST)
    if device.kind == "cpu":
        variants.append(networks.ONEDNN)
    else:
        variants.append(networks.ENGINE)
    return variants + list(networks.GRAPHS if device.has_graphs else ())


def _training_variants(device: Device, dtype: torch.dtype) -> list[Variant]:
    variants = list(networks.EAGER_PEERS)
    if dtype == torch.bfloat16:
        variants.append(networks.AUTOCAST)
    return variants + list(networks.GRAPHS if device.has_graphs else ())


def _with_graphs(device: Device, variants: Sequence[Variant]) -> list[Variant]:
    """Each, and each captured where the device can."""
    return [*variants, *(map(networks.captured, variants) if device.has_graphs else ())]


class _Network:
    """Makes the workloads of one network in one dtype."""

    def __init__(self, device: Device, plan: Plan, name: str, dtype: torch.dtype) -> None:
        self.device, self.plan, self.name, self.dtype = device, plan, name, dtype
        self.pixels = min(plan.image_size, models.image_size(name))

    def problem(self, batch: int) -> Problem:
        return Problem(self.device, self.name, batch, self.pixels, self.dtype)

    def inference(self, variants: Sequence[Variant]) -> Workload:
        return inference_workload(self.problem(self.plan.batch), variants)

    def training(self, variants: Sequence[Variant], pass_name: str = "training step") -> Workload:
        return training_workload(self.problem(self.plan.batch), variants, pass_name)

    def sweep(self) -> Iterator[Workload]:
        """Throughput over batch sizes; a pass ends where memory does. `plan.batch` has been measured already."""
        graphs = networks.GRAPHS[1:] if self.device.has_graphs else ()
        variants = (networks.FUSED, networks.EAGER, *graphs)
        for make in (inference_workload, training_workload):
            done = {make(self.problem(self.plan.batch), variants).images}
            for batch in self.plan.sweep:
                workload = make(self.problem(batch), variants)
                if workload.images in done:
                    continue
                done.add(workload.images)
                end = _EndOfSweep(workload.images)
                workload.smaller = end
                workload.label = "sweep"
                yield workload
                if end.reached:
                    break


class _EndOfSweep:
    """Instead of a smaller batch, which a sweep has had already."""

    def __init__(self, batch: int) -> None:
        self.batch, self.reached = batch, False

    def __call__(self) -> Workload:
        self.reached = True
        name = f"the sweep ends below n{self.batch}"
        return Workload("model", name, "", torch.float32, 0, 0, candidates=())


def inference_workload(problem: Problem, variants: Sequence[Variant]) -> Workload:
    candidates = [inference(problem, variant) for variant in variants]

    def exact() -> Tensor:
        x = problem.images(networks.EAGER, problem.batch)[:_CHECKED_IMAGES]
        return network_check.exact_logits(problem.network, problem.dtype, x)

    return _workload(
        problem,
        "inference",
        candidates,
        Check(_yardstick(candidates), exact, LogitsRule(problem.dtype)),
        lambda smaller: inference_workload(smaller, variants),
        {"checked": f"logits of {min(_CHECKED_IMAGES, problem.batch)} images"},
    )


def training_workload(
    problem: Problem, variants: Sequence[Variant], pass_name: str = "training step"
) -> Workload:
    cost = costs(problem.network, problem.pixels)
    problem = _with_batch(problem, cost.training_batch(problem.batch))
    checked = _checked_batch(problem, cost)
    candidates = [training(problem, variant, checked) for variant in variants]

    def exact() -> network_check.Gradients:
        x = problem.images(networks.EAGER, checked)
        y = networks.labels(checked, x.device)
        return network_check.exact_gradients(problem.network, problem.dtype, x, y)

    return _workload(
        problem,
        pass_name,
        candidates,
        Check(
            _yardstick(candidates), exact, GradientsRule(cost.flipped_gates(checked, problem.dtype))
        ),
        lambda smaller: training_workload(smaller, variants, pass_name),
        {"checked": f"gradients of {checked} images"},
    )


def _workload(
    problem: Problem,
    pass_name: str,
    candidates: Sequence[Candidate],
    check: Callable[[dict[str, Any]], dict[str, str]],
    make: Callable[[Problem], Workload],
    facts: dict[str, Any],
) -> Workload:
    cost = costs(problem.network, problem.pixels)
    is_training = pass_name.startswith("training")
    parts = cost.parts(problem.batch, problem.dtype, is_training)

    half = problem.batch // 2
    least = cost.training_batch(1) if is_training else 1
    sources = {"plain": networks.plain(problem.network)[1]}
    if any(candidate.name == "timm" for candidate in candidates) and peers.is_here("timm"):
        sources["timm"] = f"{problem.network} of timm {peers.version('timm')}"
    return Workload(
        "model",
        f"{problem.network} n{problem.batch}-{problem.pixels}x{problem.pixels}",
        pass_name,
        problem.dtype,
        flops=sum(flops for flops, _ in parts),
        bytes=sum(size for _, size in parts),
        candidates=candidates,
        check=check,
        images=problem.batch,
        parts=parts,
        memory=cost.memory(problem.batch, problem.dtype, is_training),
        smaller=(lambda: make(_with_batch(problem, half))) if half >= least else None,
        facts={
            "network": problem.network,
            "batch": problem.batch,
            "image_size": problem.pixels,
            "sources": sources,
            **facts,
        },
    )


def _absent(name: str, dtype: torch.dtype) -> Workload:
    def prepare() -> Callable[[], object]:
        raise Absent(f"resnet_cuda.models has no {name}")

    candidates = [Candidate(OURS, prepare, ours=True)]
    return Workload("model", name, "inference", dtype, 0, 0, candidates, facts={"network": name})


def _with_batch(problem: Problem, batch: int) -> Problem:
    return Problem(problem.device, problem.network, batch, problem.pixels, problem.dtype)


def _checked_batch(problem: Problem, cost: Costs) -> int:
    limit = _CHECK_FLOPS.get(problem.device.kind, _CHECK_FLOPS_ON_CPU)
    if cost.flops(problem.batch, training=True) <= limit:
        return problem.batch
    return min(problem.batch, cost.training_batch(2))


def _yardstick(candidates: Sequence[Candidate]) -> Candidate:
    """The one whose error is torch's own."""
    by_name = {candidate.name: candidate for candidate in candidates}
    return next(by_name[v.name] for v in (networks.EAGER, networks.AUTOCAST) if v.name in by_name)
