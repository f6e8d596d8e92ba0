"""Stage `gates`: the passes that docs/kernels.md has limits for, measured, and whether each limit is met; and what an
early start is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.hardware.measure import Measurement, plan_of, progress, time_left
from benchmarks.hardware.protocol import RESTART, say
from benchmarks.kernels import early_start, gates
from resnet_cuda.bench.ceilings import measure_ceilings
from resnet_cuda.bench.device import Device, open_device
from resnet_cuda.bench.environment import settings
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.runner import Runner
from resnet_cuda.bench.timing import Effort
from resnet_cuda.bench.workload import Result, Workload

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_CAPABILITY = "9.0"
_MEASUREMENT = Measurement("kernel", {"effort": Effort(seconds=0.6)})


def run(context: Context) -> int:
    """Every process of the stage tells of its own passes and of those that nobody has measured."""
    device = open_device(context.device)
    report = Report(None, "hardware_run", {}, say)
    if why := _why_not(device):
        report.note(f"stage gates: {why}")
        return 0
    found: list[dict[str, Any]] = []

    def record(result: Result) -> None:
        found.append(result.to_json())
        report.add(result)

    with report.recording(), settings(device):
        # In the same process as what is compared with it.
        copy = measure_ceilings(device, ())
        runner = Runner(
            device,
            plan_of(_MEASUREMENT, device, context),
            record,
            report.note,
            time_left(context),
            context.ceilings,
            progress,
        )
        runner.run_level("kernel", lambda: _left(runner, device, context))
        reached = gates.measured(found, copy.bandwidth)
        rows = [one.to_json() for one in reached]
        if context.dry:
            rows = [{**row, "verdict": "a dry run: no verdict"} for row in rows]
        report.set("gates", rows)
    return RESTART if runner.lost else 0


def _why_not(device: Device) -> str:
    """Empty where the GPU, or the one that the emulator plays, runs these kernels."""
    capability = device.facts()["capability"] if device.kind == "cuda" else _CAPABILITY
    if capability == _CAPABILITY:
        return ""
    return f"its limits are of compute capability {_CAPABILITY}, and this GPU has {capability}"


def _left(runner: Runner, device: Device, context: Context) -> Iterator[Workload]:
    workloads = [
        *(workload for workload, _ in gates.workloads(device, small=context.dry)),
        *early_start.workloads(device, small=context.dry),
    ]
    for index, workload in enumerate(workloads):
        if runner.lost:
            return
        if index >= context.skip:
            yield workload
