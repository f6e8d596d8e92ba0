"""The benchmark stages: levels of `resnet_cuda.bench` with the peers and the workloads that a stage is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import resnet_cuda
from benchmarks.hardware.protocol import say
from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.ceilings import measure_ceilings
from resnet_cuda.bench.device import Device, open_device
from resnet_cuda.bench.environment import settings
from resnet_cuda.bench.plan import Plan, default_plan
from resnet_cuda.bench.report import Report, plain
from resnet_cuda.bench.runner import Budget, Runner
from resnet_cuda.bench.workload import Workload

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_SPARE = 4.0  # seconds between the end of measuring and the end of the process


def _all(workload: Workload) -> bool:
    return True


@dataclass(frozen=True)
class Measurement:
    """A level of the bench. changes: to the device's plan. wants: which workloads, of those that the plan gives."""

    level: str
    changes: dict[str, Any]
    wants: Callable[[Workload], bool] = _all


def _has(candidate: str) -> Callable[[Workload], bool]:
    return lambda workload: any(c.name == candidate for c in workload.candidates)


_EAGER = {"compile": False}
_COMPILED = {"sweep": ()}
# By the stage's name. Compilers come late: what they cost is unknown, and everything else is worth more.
MEASUREMENTS = {
    "kernels": Measurement("kernel", _EAGER),
    "models": Measurement("model", _EAGER),
    "blocks": Measurement("block", _EAGER),
    "ops": Measurement("op", _EAGER),
    "overhead": Measurement("overhead", _EAGER),
    "compile": Measurement("model", {**_COMPILED, "slow_compile": False}, _has("compile")),
    "max_autotune": Measurement("model", _COMPILED, _has("compile max-autotune")),
}


def run(context: Context) -> int:
    measurement = MEASUREMENTS[context.stage]
    report = Report(None, "hardware_run", {}, lambda what, value: say(what, value))
    with report.recording():
        if context.dry and measurement.wants is not _all:
            trace_a_small_module()
            report.note(
                f"stage {context.stage}: a dry run leaves the compilers out; a small module went through "
                "torch.compile's tracer instead"
            )
            return 0
        device = open_device(context.device)
        plan = plan_of(measurement, device, context)
        say("plan", plain(asdict(plan)))
        with settings(device):
            ceilings = context.ceilings or measure_ceilings(device, plan.dtypes)
            budget = Budget(context.seconds - _SPARE)
            runner = Runner(device, plan, report.add, report.note, budget, ceilings, _log)
            runner.run_level(measurement.level, lambda: workloads(measurement, device, plan))
    return 0


def workloads(measurement: Measurement, device: Device, plan: Plan) -> Iterator[Workload]:
    for workload in bench_run.level(measurement.level)(device, plan):
        if measurement.wants(workload):
            yield workload


def plan_of(measurement: Measurement, device: Device, context: Context) -> Plan:
    """The device's plan with the stage's changes, and only what the chosen kernels or ops take part in."""
    only: tuple[str, ...] = ()
    if measurement.level == "kernel" and context.passes is not None:
        only = tuple(sorted(context.passes))
    if measurement.level == "op" and context.ops is not None:
        only = tuple(f"op {op} " for op in sorted(context.ops))
    plan = default_plan(device, quick=False)
    return replace(plan, levels=(measurement.level,), only=only, **measurement.changes)


def trace_a_small_module() -> None:
    """torch.compile without a code generator, on a network of one op."""
    x = torch.randn(2, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    with resnet_cuda.use_backend("cpu"), torch.no_grad():
        traced = torch.compile(resnet_cuda.ops.add_relu, backend="eager")(x, x)
        torch.testing.assert_close(traced, resnet_cuda.ops.add_relu(x, x))


def _log(title: str, done: int) -> None:
    print(f"{done}: {title}", flush=True)
