"""Measure this package and its peers on this machine: a table, report.json, report.md and pictures."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from resnet_cuda.bench import run as bench_run
from resnet_cuda.bench.device import open_device
from resnet_cuda.bench.plan import Plan, default_plan
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.runner import Budget
from resnet_cuda.bench.workload import LEVELS
from resnet_cuda.cli import _traffic

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float32, torch.bfloat16, torch.float16)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what to measure")
    what.add_argument(
        "--quick", action="store_true", help="few shapes, small networks: at most three minutes"
    )
    what.add_argument("--level", nargs="+", choices=LEVELS, help="default: all that the device has")
    what.add_argument(
        "--network", nargs="+", metavar="NAME", help="models; the first gives the layers"
    )
    what.add_argument("--dtype", nargs="+", choices=DTYPES)
    what.add_argument(
        "--batch", type=int, metavar="N", help="images of kernels, ops, blocks and models"
    )
    what.add_argument("--image-size", type=int, metavar="PIXELS")
    what.add_argument(
        "--sweep", type=int, nargs="*", metavar="N", help="batch sizes; none: no sweep"
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
        "--seconds", type=float, help="per comparison of all candidates of one workload"
    )
    how.add_argument(
        "--minutes", type=float, help="stop measuring after so long; what is missing is listed"
    )
    how.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for report.json, report.md and pictures"
    )
    how.add_argument("--stream", action="store_true", help=argparse.SUPPRESS)
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
    if arguments.model_traffic:
        return _traffic.run(arguments, DTYPES)
    try:
        device = open_device(arguments.device)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    plan = plan_from(arguments, default_plan(device, arguments.quick))
    report = Report(arguments.out, "bench", device.facts())
    budget = Budget(None if arguments.minutes is None else 60 * arguments.minutes)
    bench_run.run(device, plan, report, budget)
    report.finish()
    for row in report.results:
        print(
            row["level"],
            row["workload"],
            row["pass_name"],
            row["dtype"],
            row["candidate"],
            row["status"],
            row["message"],
            row["timing"] and row["timing"]["median_us"],
            row["versus"],
        )
    return 0
