"""One benchmark run, from a plan to a report: what the command line and the stages of a hardware run share."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch

from resnet_cuda.bench import peers, training_step
from resnet_cuda.bench.ceilings import Ceilings, measure_ceilings
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.environment import settings
from resnet_cuda.bench.harness import self_comparison
from resnet_cuda.bench.plan import Plan, Workloads
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.runner import Budget, Runner


def level(name: str) -> Workloads:
    """The workloads of a level."""
    workloads: Workloads = importlib.import_module(f"resnet_cuda.bench.levels.{name}").workloads
    return workloads


def run(
    device: Device,
    plan: Plan,
    report: Report,
    budget: Budget,
    ceilings: Ceilings | None = None,
    progress: Callable[[str, int], None] = lambda title, done: None,
) -> None:
    """Compares the harness with itself, measures the ceilings (where they are not given) and all levels of the plan."""
    report.set("plans", [*report.data.get("plans", []), asdict(plan)])
    with settings(device):
        if "harness" not in report.data:
            report.set("harness", self_comparison(device))
        if ceilings is None:
            ceilings = measure_ceilings(device, _dtypes(plan))
            # A dry run's say nothing anyway.
            for doubt in ceilings.doubts() if device.kind != "dry-run" else ():
                report.note(doubt)
        report.set("ceilings", ceilings.to_json())
        report.set("peers", peers.presence())
        runner = Runner(device, plan, report.add, report.note, budget, ceilings, progress)
        with _imports_out_of_garbage_collection():
            for name in plan.levels:
                runner.run_level(name, lambda name=name: level(name)(device, plan))  # type: ignore[misc]
                if name == "model" and budget.left() > 0:
                    report.set("training_step", training_step.measure(device, plan, report.note))


def _dtypes(plan: Plan) -> list[torch.dtype]:
    """What has a floor: the plan's, and that of autocast, which every network is trained under."""
    autocast = [torch.bfloat16] if "model" in plan.levels else []
    return list(dict.fromkeys([*plan.dtypes, *autocast]))


@contextmanager
def _imports_out_of_garbage_collection() -> Iterator[None]:
    """Memory is collected after each workload; what the imported peers consist of makes that take half a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
