"""Every convolution pass of ResNet-50, ResNeXt-50 32x4d and WRN-28-10: what is planned, what is predicted of the
Hopper kernels, and on a GPU how fast it is.

    python -m benchmarks.kernels --plan                 # kernel, tile, FLOPs, bytes, floor of each pass; needs no GPU
    python -m benchmarks.kernels --predict              # what a Hopper GPU should take, and the gates; needs no GPU
    python -m benchmarks.kernels --predict --dtype float32 --tf32   # float32 where TF32 is allowed
    python -m benchmarks.kernels --predict --report report.json   # beside what a report says was measured
    python -m benchmarks.kernels --minutes 5 --out DIR  # on a GPU, with cuDNN; report.json, kernels.json, kernels.md

The exit code is 0; 1 where something of ours was wrong or failed; 2 where the arguments make no sense here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch

from benchmarks.kernels import gates, measured, planned, predicted
from benchmarks.kernels.planned import NETWORKS, PlannedPass
from benchmarks.kernels.predicted import PredictedPass
from benchmarks.kernels.predicted_docs import DOCS, write_docs
from benchmarks.kernels.prediction import MACHINES, of_workload, plan_of
from resnet_cuda.bench.device import Device, open_device
from resnet_cuda.bench.environment import environment
from resnet_cuda.bench.markdown_text import table as markdown_table
from resnet_cuda.bench.plan import GPU, Plan
from resnet_cuda.bench.report import Report, write_whole
from resnet_cuda.bench.results import complaints
from resnet_cuda.bench.runner import Budget
from resnet_cuda.bench.tables import Table, show
from resnet_cuda.bench.workload import Workload
from resnet_cuda.explain import H200
from resnet_cuda.testing.problems import ConvProblem

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.bfloat16, torch.float16, torch.float32)}
PREDICTED = "Predicted for {machine}, not measured: see docs/kernels.md for the model."
NOTHING_TIMED = "Nothing was timed: {why}. Floors are computed, not measured."


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument(
        "--plan", action="store_true", help="the plan only, also where there is a GPU"
    )
    parser.add_argument(
        "--predict",
        action="store_true",
        help="predicted times, and the gates; ResNet-50's at first",
    )
    parser.add_argument("--gpu", choices=MACHINES, default=H200.name, help="to predict for")
    parser.add_argument(
        "--docs", action="store_true", help="with --predict: rewrite the tables of docs/kernels.md"
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="what was measured, beside --predict"
    )
    parser.add_argument("--network", nargs="+", choices=NETWORKS)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bfloat16"])
    parser.add_argument(
        "--tf32", action="store_true", help="float32 where TF32 is allowed; nothing is timed so"
    )
    parser.add_argument("--batch", type=int, default=GPU.batch, metavar="N", help="images")
    parser.add_argument("--layers", type=int, metavar="N", help="only so many distinct layers")
    parser.add_argument("--only", nargs="+", metavar="TEXT", default=(), help="parts of titles")
    parser.add_argument("--seconds", type=float, default=0.4, help="per pass, with its peers")
    parser.add_argument("--minutes", type=float, help="stop measuring after so long")
    parser.add_argument(
        "--device", choices=("cuda", "dry-run"), help="dry-run: on the emulator, no figures"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for what was found")
    options = parser.parse_args(arguments)
    for name in ("batch", "layers", "seconds", "minutes"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name} is {value}; accepted: numbers above 0")
    for name in ("report", "docs"):
        if getattr(options, name) and not options.predict:
            parser.error(f"--{name} is given without --predict; accepted: both")
    if options.tf32 and not (options.plan or options.predict):
        parser.error("--tf32 is given without --plan or --predict; accepted: one of them")
    if options.tf32 and "float32" not in options.dtype:
        parser.error("--tf32 is given without --dtype float32; accepted: both")
    options.network = options.network or (["resnet50"] if options.predict else list(NETWORKS))
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    timed = not (options.plan or options.predict) and (
        options.device is not None or torch.cuda.is_available()
    )
    try:
        device = open_device((options.device or "cuda") if timed else "dry-run")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    plan = Plan(
        levels=("kernel",),
        dtypes=tuple(DTYPES[name] for name in options.dtype),
        batch=options.batch,
        effort=replace(GPU.effort, seconds=options.seconds),
        only=tuple(options.only),
    )
    triples = [
        (planned.planned(name, workload, conv, H200, options.tf32), workload, conv)
        for name in options.network
        for dtype in plan.dtypes
        for workload, conv in planned.passes(device, name, dtype, plan.batch, options.layers)
        if plan.wants(workload)
    ]
    if not triples:
        print(
            f"--only is {', '.join(plan.only)}, and no pass's title has any of it", file=sys.stderr
        )
        return 2
    found = [one for one, *_ in triples]
    status, rows = 0, [one.to_json() for one in found]
    if options.predict:
        return _predict(options, device, triples, rows)
    shown = list(planned.tables(found, H200))
    if timed:
        report = Report(options.out, "bench", environment(device))
        budget = Budget(None if options.minutes is None else 60 * options.minutes)
        with report.recording():
            workloads = [workload for _, workload, _ in triples]
            measured.run(device, plan, workloads, report, budget)
        results = measured.by_key(report.data)
        shown += measured.tables(found, results)
        for row, one in zip(rows, found, strict=True):
            if result := results.get((one.network, *one.key)):
                row["measured"] = asdict(result)
        for complaint in complaints(report.data):
            print(f"OURS: {complaint}")
            status = 1
    remark = _remark(options, device)
    show(shown)
    print(remark)
    if options.out:
        _write(options.out, rows, shown, remark)
    return status


def _predict(
    options: argparse.Namespace,
    device: Device,
    triples: Sequence[tuple[PlannedPass, Workload, ConvProblem]],
    rows: list[dict[str, object]],
) -> int:
    machine = MACHINES[options.gpu]
    try:
        data = json.loads(options.report.read_text()) if options.report else {}
        results, was = measured.by_key(data), {row["gate"]: row for row in data.get("gates", [])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"--report is {options.report}, which cannot be read: {error}", file=sys.stderr)
        return 2
    found = [
        PredictedPass(
            one, of_workload(workload, conv, plan_of(workload, conv, options.tf32), machine)
        )
        for one, workload, conv in triples
    ]
    for row, (_, prediction) in zip(rows, found, strict=True):
        row["predicted"] = prediction and asdict(prediction)
    expected = gates.predicted(device, machine)
    shown = [*predicted.tables(found, machine, results), gates.table(machine, expected, was)]
    show(shown)
    if options.docs:
        write_docs(DOCS)
    remark = PREDICTED.format(machine=machine.name)
    print(remark)
    if options.out:
        _write(options.out, rows, shown, remark)
    return 0


def _remark(options: argparse.Namespace, device: Device) -> str:
    if options.plan:
        return NOTHING_TIMED.format(why="--plan was given")
    if device.kind == "cuda":
        return f"Timed on {device.name}."
    why = "a dry run's times mean nothing" if options.device else "torch finds no GPU here"
    return NOTHING_TIMED.format(why=why)


def _write(folder: Path, rows: list[dict[str, object]], shown: list[Table], remark: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "kernels.json", json.dumps(rows, indent=1) + "\n")
    lines = ["# Convolution passes", "", remark]
    for one in shown:
        lines += ["", f"## {one.title}", "", *markdown_table(one), ""]
        lines += [f"- {note}" for note in one.notes]
    write_whole(folder / "kernels.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
