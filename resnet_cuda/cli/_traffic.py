"""`bench --model-traffic`: bytes of a network, from the emulator's counters, against eager's and the minimum."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from resnet_cuda.bench import tables, traffic
from resnet_cuda.bench.environment import revision
from resnet_cuda.bench.publish import publish
from resnet_cuda.bench.report import Report

# As many as two cores count in a minute, both modes.
NETWORK, BATCH, IMAGE_SIZE, DTYPE = "resnet50", 4, 128, "bfloat16"
OPTIONS = ("network", "dtype", "batch", "image_size", "training", "inference", "layers", "out")
OWN_OPTIONS = ("training", "inference", "layers")  # those that only traffic has


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "traffic", f"default: {NETWORK}, batch {BATCH}, {IMAGE_SIZE} pixels, {DTYPE}, both modes"
    )
    group.add_argument(
        "--model-traffic",
        action="store_true",
        help="measure bytes on the emulator instead of time: ours, eager's and the minimum",
    )
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--training", action="store_true", help="only a training step")
    mode.add_argument("--inference", action="store_true", help="only inference")
    group.add_argument("--layers", action="store_true", help="a line for each layer, too")


def run(
    arguments: argparse.Namespace,
    dtypes: dict[str, torch.dtype],
    begin: Callable[[dict[str, Any]], Report],
) -> int:
    """`begin` makes the report, given the environment."""
    modes = [t for t in (False, True) if not (arguments.inference if t else arguments.training)]
    report = begin({"kind": "emulated", "name": "the device emulator", **revision()})
    found = []
    code = 0
    try:
        with report.recording():
            for measured in _measure(arguments, dtypes, modes):
                found.append(measured)
                report.set("traffic", [one.to_json() for one in found])
                tables.show(traffic.tables(measured, arguments.layers))
    except KeyboardInterrupt:
        code = 128 + getattr(signal, report.data["stopped_by"])
    except (ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        code = 2
    finally:
        if report.folder:
            for remark in publish(report.data, report.folder):
                print(remark)
    for measured in found:
        print(measured.summary)
    return code


def _measure(
    arguments: argparse.Namespace, dtypes: dict[str, torch.dtype], modes: list[bool]
) -> Iterator[traffic.Traffic]:
    batch, image_size = arguments.batch or BATCH, arguments.image_size or IMAGE_SIZE
    for name in arguments.network or [NETWORK]:
        for dtype in arguments.dtype or [DTYPE]:
            for training in modes:
                mode = "a training step" if training else "inference"
                print(f"counting {mode} of {name} on the emulator ...", flush=True)
                yield traffic.measure_network(name, batch, image_size, dtypes[dtype], training)
