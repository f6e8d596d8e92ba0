"""The benchmark stages: levels of `resnet_cuda.bench` with the peers and the workloads that a stage is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import resnet_cuda
from benchmarks.hardware.protocol import RESTART, say
from resnet_cuda.bench import networks, training_step
from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.ceilings import measure_ceilings
from resnet_cuda.bench.device import Device, open_device
from resnet_cuda.bench.environment import settings
from resnet_cuda.bench.plan import Plan, default_plan
from resnet_cuda.bench.report import Report, plain
from resnet_cuda.bench.runner import Budget, Runner
from resnet_cuda.bench.timing import Effort
from resnet_cuda.bench.workload import Workload

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_SPARE = 4.0  # seconds between the end of measuring and the end of the process


def _all(workload: Workload) -> bool:
    return True


@dataclass(frozen=True)
class Measurement:
    """A level of the bench. changes: to a GPU's plan. wants: which workloads, of those that the plan gives."""

    level: str
    changes: dict[str, Any]
    wants: Callable[[Workload], bool] = _all


def _has(*candidates: str) -> Callable[[Workload], bool]:
    return lambda workload: any(c.name in candidates for c in workload.candidates)


def _is_swept(workload: Workload) -> bool:
    return workload.label == "sweep"


# ResNet-50 has the layers that matter most. A few hundred comparisons of 2 s each would take too long.
_LAYERS = {"compile": False, "networks": ("resnet50",), "effort": Effort(seconds=0.4)}
_NETWORKS = {"compile": False, "sweep": (), "effort": Effort(seconds=1.0)}
_FEW_NETWORKS = {"networks": ("resnet18", "resnet50"), "effort": Effort(seconds=1.0)}
_SWEEP = {**_FEW_NETWORKS, "compile": False, "effort": Effort(seconds=0.4)}
_COMPILED = {**_FEW_NETWORKS, "sweep": ()}
# By the stage's name. Compilers come late: what they cost is unknown, and everything else is worth more.
MEASUREMENTS = {
    "kernels": Measurement("kernel", _LAYERS),
    "models": Measurement("model", _NETWORKS, lambda workload: not _is_swept(workload)),
    "blocks": Measurement("block", _LAYERS),
    "sweep": Measurement("model", _SWEEP, _is_swept),
    "ops": Measurement("op", _LAYERS),
    "overhead": Measurement("overhead", _LAYERS),
    "compile": Measurement(
        "model",
        {**_COMPILED, "slow_compile": False},
        _has(networks.COMPILED.name, networks.FROZEN.name),
    ),
    "max_autotune": Measurement("model", _COMPILED, _has(networks.AUTOTUNED.name)),
}


def run(context: Context) -> int:
    report = Report(None, "hardware_run", {}, lambda what, value: say(what, value))
    device = open_device(context.device)
    with report.recording(), settings(device):
        if context.stage == "training_step":
            plan = replace(default_plan(device, quick=False), levels=())
            report.set("training_step", training_step.measure(device, plan, report.note))
        elif context.dry and MEASUREMENTS[context.stage].changes.get("compile", True):
            trace_a_small_module()
            report.note(
                f"stage {context.stage}: a dry run leaves the compilers out; a small module went through "
                "torch.compile's tracer instead"
            )
        else:
            return compare(MEASUREMENTS[context.stage], device, context, report)
    return 0


def compare(measurement: Measurement, device: Device, context: Context, report: Report) -> int:
    """The process's exit status: where the GPU takes no more work from this one, a new one goes on behind."""
    plan = plan_of(measurement, device, context)
    say("plan", plain(asdict(plan)))
    ceilings = context.ceilings or measure_ceilings(device, plan.dtypes)
    budget = time_left(context)
    runner = Runner(device, plan, report.add, report.note, budget, ceilings, progress)

    def left() -> Iterator[Workload]:
        for index, workload in enumerate(workloads(measurement, device, plan)):
            if runner.lost:
                return
            if index >= context.skip:
                yield workload

    runner.run_level(measurement.level, left)
    return RESTART if runner.lost else 0


def workloads(measurement: Measurement, device: Device, plan: Plan) -> Iterator[Workload]:
    for workload in bench_run.level(measurement.level)(device, plan):
        # The emulator takes long for a network, and the stage `models` has tried them.
        tried = device.kind == "dry-run" and workload.level == "overhead"
        wanted = measurement.wants(workload) and plan.wants(workload)
        if wanted and not (tried and "network" in workload.facts):
            yield workload


def plan_of(measurement: Measurement, device: Device, context: Context) -> Plan:
    """The device's plan with the stage's changes, and only what the chosen kernels or ops take part in."""
    only: tuple[str, ...] = ()
    if measurement.level == "kernel" and context.passes is not None:
        only = tuple(sorted(context.passes))
    if measurement.level == "op" and context.ops is not None:
        only = tuple(f"op {op} " for op in sorted(context.ops))
    plan = replace(default_plan(device, quick=False), levels=(measurement.level,), only=only)
    return plan if context.dry else replace(plan, **measurement.changes)


def trace_a_small_module() -> None:
    """torch.compile without a code generator, on a network of one op."""
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    with resnet_cuda.use_backend("cpu"), torch.no_grad():
        traced = torch.compile(resnet_cuda.ops.add_relu, backend="eager")(x, x)
        torch.testing.assert_close(traced, resnet_cuda.ops.add_relu(x, x))


def time_left(context: Context) -> Budget:
    """For measuring."""
    return Budget(context.left() - _SPARE)


def progress(title: str, done: int) -> None:
    say("progress", title)
