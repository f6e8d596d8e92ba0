"""Measure this package and its peers on this machine: a table, report.json, report.md and pictures.

The exit code is 0; 1 where something of ours was wrong or failed, or is worse than in the report given by --against;
2 where the arguments make no sense here; 128 + the signal's number where the run was interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnet_cuda.bench import compare
from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.device import Device, open_device
from resnet_cuda.bench.environment import environment
from resnet_cuda.bench.markdown import DRY_RUN, harness_line
from resnet_cuda.bench.plan import Plan, default_plan
from resnet_cuda.bench.publish import Summariser, publish
from resnet_cuda.bench.report import Report, load
from resnet_cuda.bench.report_tables import (
    RATIO_NOTE,
    result_tables,
    totals_tables,
    training_step_tables,
    verdict_table,
)
from resnet_cuda.bench.results import complaints, is_dry, verdicts
from resnet_cuda.bench.runner import Budget
from resnet_cuda.bench.tables import show
from resnet_cuda.bench.workload import LEVELS
from resnet_cuda.cli import _traffic
from resnet_cuda.models import list_models
from resnet_cuda.training.progress import progress_bar

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}
_QUICK_MINUTES = 2.5  # of measuring; starting and drawing take their part of three
_MIN_PIXELS = 32  # the last stage of a network for ImageNet has one pixel left of them


class BadArgument(Exception):
    """The message names the argument, what it was and what is accepted."""


def _number(of: Callable[[str], Any], least: float, accepted: str) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = of(text)
        except ValueError:
            value = None
        if value is None or not value >= least:
            raise argparse.ArgumentTypeError(f"{text!r} is not accepted; accepted: {accepted}")
        return value

    return parse


_COUNT = _number(int, 1, "integers from 1")
_PIXELS = _number(int, _MIN_PIXELS, f"integers from {_MIN_PIXELS}")
_DURATION = _number(float, 1e-3, "numbers above 0")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--quick",
        action="store_true",
        help=f"few shapes, small networks; stops after {_QUICK_MINUTES} minutes",
    )
    what.add_argument("--level", nargs="+", choices=LEVELS, help="default: all that the device has")
    what.add_argument(
        "--network",
        nargs="+",
        choices=list_models(),
        metavar="NAME",
        help="models; the first gives the layers",
    )
    what.add_argument("--dtype", nargs="+", choices=DTYPES)
    what.add_argument(
        "--batch", type=_COUNT, metavar="N", help="images of kernels, ops, blocks and models"
    )
    what.add_argument("--image-size", type=_PIXELS, metavar="PIXELS")
    what.add_argument(
        "--sweep", type=_COUNT, nargs="*", metavar="N", help="batch sizes; none: no sweep"
    )
    what.add_argument(
        "--only", nargs="+", metavar="TEXT", default=(), help="parts of workloads' titles"
    )
    what.add_argument("--no-compile", action="store_true", help="leave out peers that compile")
    what.add_argument(
        "--no-slow-compile", action="store_true", help="leave out those that take minutes"
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--device", choices=("cuda", "cpu", "dry-run"), help="default: cuda where there is a GPU"
    )
    how.add_argument(
        "--cpu", dest="device", action="store_const", const="cpu", help="the same as --device cpu"
    )
    how.add_argument(
        "--seconds", type=_DURATION, help="per comparison of all candidates of one workload"
    )
    how.add_argument(
        "--minutes", type=_DURATION, help="stop measuring after so long; what is missing is listed"
    )
    then = parser.add_argument_group("what becomes of it")
    then.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for report.json, report.md and pictures"
    )
    then.add_argument(
        "--against",
        type=Path,
        metavar="REPORT",
        help="an earlier report.json of this device, or its folder: say what of ours got worse",
    )
    _traffic.add_arguments(parser)


def plan_from(arguments: argparse.Namespace, plan: Plan) -> Plan:
    """The default plan with what the command line says instead."""
    changes: dict[str, Any] = {
        "levels": arguments.level,
        "networks": arguments.network,
        "batch": arguments.batch,
        "image_size": arguments.image_size,
        "sweep": arguments.sweep,
        "dtypes": arguments.dtype and tuple(DTYPES[name] for name in arguments.dtype),
        "effort": arguments.seconds and replace(plan.effort, seconds=arguments.seconds),
        "compile": False if arguments.no_compile else None,
        "slow_compile": False if arguments.no_compile or arguments.no_slow_compile else None,
        "only": tuple(arguments.only),
    }
    return replace(plan, **{name: value for name, value in changes.items() if value is not None})


def run(arguments: argparse.Namespace) -> int:
    try:
        _check_combination(arguments)
        if arguments.model_traffic:
            return _traffic.run(arguments, DTYPES, lambda facts: _begin(arguments.out, facts))
        device, plan, workloads, report, earlier = _prepare(arguments)
    except BadArgument as error:
        print(error, file=sys.stderr)
        return 2
    minutes = arguments.minutes or (_QUICK_MINUTES if arguments.quick else None)
    budget = Budget(None if minutes is None else 60 * minutes)
    limit = (
        "no limit of time (see --quick, --minutes)" if minutes is None else f"{minutes:g} minutes"
    )
    print(
        f"{device.name}: {workloads} comparisons, {limit}; the harness and the ceilings come before them",
        flush=True,
    )
    code = 0
    try:
        with report.recording(), progress_bar("bench", workloads) as advance:
            bench_run.run(device, plan, report, budget, progress=lambda title, done: advance(title))
    except KeyboardInterrupt:
        code = 128 + getattr(signal, report.data["stopped_by"])
    finally:  # whatever ended the run: what was measured counts
        _show(report)
    worse = compare.regressions(report.data, earlier) if earlier else []
    for finding in worse:
        print(f"worse: {finding}")
    return code or int(bool(complaints(report.data) or worse))


def _prepare(
    arguments: argparse.Namespace,
) -> tuple[Device, Plan, int, Report, dict[str, Any] | None]:
    """(device, plan, how many workloads it has, the begun report, the report to compare with)"""
    try:
        device = open_device(arguments.device)
    except RuntimeError as error:
        raise BadArgument(str(error)) from error
    plan = plan_from(arguments, default_plan(device, arguments.quick))
    if device.kind == "cpu" and "kernel" in plan.levels:
        raise BadArgument(
            "--level has 'kernel', but the kernels need a GPU; accepted on a CPU: "
            "'op', 'block', 'model', 'overhead', or all levels with --device dry-run"
        )
    workloads = _count(device, plan)
    if workloads == 0:
        raise BadArgument(
            f"--only is {', '.join(map(repr, plan.only))}, and no workload's title has any of it; "
            "accepted: parts of titles such as 'op', 'conv', '3x3', 'inference', 'float32'"
            if plan.only
            else f"--level is {', '.join(plan.levels)}, which has no workload on {device.name}"
        )
    facts = environment(device)
    earlier = _earlier(arguments.against, facts)
    return device, plan, workloads, _begin(arguments.out, facts), earlier


def _check_combination(arguments: argparse.Namespace) -> None:
    """An option that would change nothing is not silently ignored."""
    given = [n for n, v in vars(arguments).items() if v not in (None, False, ()) and n != "run"]
    given = [n for n in given if n not in ("command", "model_traffic")]
    if arguments.model_traffic:
        unknown = [n for n in given if n not in _traffic.OPTIONS]
        accepted = f"accepted with it: {', '.join(map(_option, _traffic.OPTIONS))}"
        what = f"has no effect with --model-traffic; {accepted}"
    else:
        unknown = [n for n in given if n in _traffic.OWN_OPTIONS]
        what = "has no effect without --model-traffic; for times: --only and part of a title"
    if unknown:
        raise BadArgument(f"{_option(unknown[0])} {what}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _begin(out: Path | None, facts: dict[str, Any]) -> Report:
    summary = Summariser()
    try:
        report = Report(out, "bench", facts, lambda what, value: summary.note(report))
    except OSError as error:
        raise BadArgument(
            f"--out is {out}: {error.strerror}; accepted: a folder that can be written"
        ) from error
    return report


def _earlier(path: Path | None, facts: dict[str, Any]) -> dict[str, Any] | None:
    if path is None:
        return None
    accepted = "accepted: a report.json of this device, or its folder"
    try:
        data = load(path / "report.json" if path.is_dir() else path)
        compare.regressions(
            {"environment": facts, "results": []}, data
        )  # raises for another device
    except OSError as error:
        why = "has no report.json" if path.is_dir() else error.strerror
        raise BadArgument(f"--against is {path}: {why}; {accepted}") from error
    except ValueError as error:
        raise BadArgument(f"--against is {path}: {error}; {accepted}") from error
    return data


def _count(device: Device, plan: Plan) -> int:
    """How many workloads there will be. A level that cannot even say so counts as one: it will report its failure."""
    count = 0
    for name in plan.levels:
        try:
            count += sum(plan.wants(w) for w in bench_run.level(name)(device, plan))
        except Exception:
            count += 1
    return count


def _show(report: Report) -> None:
    data = report.data
    print()
    show([*result_tables(data), *totals_tables(data), *training_step_tables(data)])
    # What one wants to know first stands where a terminal leaves the reader: at the end.
    if found := verdicts(data):
        show([replace(verdict_table(found, every_peer=False), notes=[RATIO_NOTE])])
    if is_dry(data):
        print(DRY_RUN)
    for complaint in complaints(data):
        print(f"OURS: {complaint}")
    for note in data["notes"]:
        print(f"note: {note}")
    if report.folder:
        for remark in publish(data, report.folder):
            print(remark)
    if report.unsaved:
        print(f"report.json is not complete, it could not be written: {report.unsaved}")
    ended = f"Cut off by {data['stopped_by']} after" if data["stopped_by"] else "Took"
    where = f"; the report is in {report.folder}" if report.folder else ""
    print(f"{harness_line(data).replace('**', '')} {ended} {data['seconds']:.0f} s{where}.".strip())
