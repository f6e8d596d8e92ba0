"""The planned passes on a GPU: time, rates, share of the floor, and how cuDNN does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.kernels.planned import PlannedPass
from resnet_cuda.bench import roofline
from resnet_cuda.bench.ceilings import measure_ceilings
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.environment import settings
from resnet_cuda.bench.harness import self_comparison
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.results import Comparison, comparisons
from resnet_cuda.bench.runner import Budget, Runner
from resnet_cuda.bench.tables import BAD, Cell, Table, ratio_cell
from resnet_cuda.bench.workload import OK, Workload

CUDNN = "channels_last"  # in the name of the peer that is torch's convolution in our layout


def run(
    device: Device, plan: Plan, workloads: Sequence[Workload], report: Report, budget: Budget
) -> None:
    """Into the report: the harness against itself, the ceilings, and every workload with its peers."""
    with settings(device):
        report.set("harness", self_comparison(device))
        ceilings = measure_ceilings(device, plan.dtypes)
        report.set("ceilings", ceilings.to_json())
        runner = Runner(device, plan, report.add, report.note, budget, ceilings)
        runner.run_level("kernel", lambda: workloads)


@dataclass(frozen=True)
class MeasuredPass:
    """share: of the measured floor that was reached. versus_cudnn: its time over ours."""

    us: float | None
    tflops: float | None
    gbytes: float | None
    share: float | None
    versus_cudnn: float | None
    status: str


def measured(comparison: Comparison) -> MeasuredPass:
    ours = comparison.ours[0]
    point = roofline.point(ours)
    peer = next((row for row in comparison.peers if CUDNN in row["candidate"]), None)
    versus = comparison.speedup(peer) if peer else None
    if not ours["timing"]:
        return MeasuredPass(None, None, None, None, None, ours["status"])
    return MeasuredPass(
        ours["timing"]["median_us"],
        point.flops_per_second / 1e12 if point else None,
        point.bytes_per_second / 1e9 if point else None,
        point.fraction if point else None,
        versus,
        ours["status"],
    )


def by_key(data: Mapping[str, Any]) -> dict[tuple[str, str, str, str], MeasuredPass]:
    """By network and the key of a planned pass."""
    return {
        (c.rows[0]["facts"]["network"], c.workload, c.pass_name, c.dtype): measured(c)
        for c in comparisons(data)
        if "network" in (c.rows[0].get("facts") or {})
    }


def tables(
    found: Sequence[PlannedPass], results: Mapping[tuple[str, str, str, str], MeasuredPass]
) -> Iterator[Table]:
    """One for each network and dtype."""
    header = [
        "pass",
        "times",
        "kernel",
        "us",
        "TFLOP/s",
        "GB/s",
        "of floor",
        "cuDNN's time over ours",
    ]
    for name, dtype in dict.fromkeys((p.network, p.dtype) for p in found):
        mine = [p for p in found if (p.network, p.dtype) == (name, dtype)]
        rows = [_row(p, results.get((name, *p.key))) for p in mine]
        notes = [
            "of floor: of the ceilings measured on this device; cuDNN: torch, channels_last, benchmark mode"
        ]
        yield Table(f"{name}, {dtype}, measured", header, rows, notes)


def _row(p: PlannedPass, m: MeasuredPass | None) -> list[Cell]:
    cells = [Cell(f"{p.pass_name.removeprefix('conv_')} {p.workload}"), Cell(str(p.count))]
    cells.append(Cell(p.kernel.removeprefix("conv_")))
    if m is None:
        return [*cells, Cell("not measured"), *[Cell("-")] * 4]
    if m.us is None:
        return [*cells, Cell(m.status, "" if m.status == OK else BAD), *[Cell("-")] * 4]
    rates = (f"{m.tflops:.1f}" if m.tflops else "-", f"{m.gbytes:.0f}" if m.gbytes else "-")
    cells += [Cell(f"{m.us:.1f}"), *map(Cell, rates)]
    cells.append(Cell(f"{100 * m.share:.0f}%" if m.share else "-"))
    return [*cells, Cell("-") if m.versus_cudnn is None else ratio_cell(m.versus_cudnn)]
