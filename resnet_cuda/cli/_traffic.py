"""`bench --model-traffic`: bytes of a network, from the emulator's counters, against eager's and the minimum."""

from __future__ import annotations

import argparse
import sys

import torch

from resnet_cuda.bench import tables, traffic
from resnet_cuda.bench.publish import summarise
from resnet_cuda.bench.report import Report

# As many as two cores count in a minute, both modes.
NETWORK, BATCH, IMAGE_SIZE, DTYPE = "resnet50", 4, 128, "bfloat16"


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


def run(arguments: argparse.Namespace, dtypes: dict[str, torch.dtype]) -> int:
    modes = [t for t in (False, True) if not (arguments.inference if t else arguments.training)]
    report = Report(arguments.out, "bench", {"kind": "emulated", "name": "the device emulator"})
    found = []
    try:
        for name in arguments.network or [NETWORK]:
            for dtype in arguments.dtype or [DTYPE]:
                for training in modes:
                    measured = traffic.measure_network(
                        name,
                        arguments.batch or BATCH,
                        arguments.image_size or IMAGE_SIZE,
                        dtypes[dtype],
                        training,
                    )
                    found.append(measured)
                    report.set("traffic", [one.to_json() for one in found])
                    tables.show(traffic.tables(measured, arguments.layers))
    except (ValueError, RuntimeError) as error:
        report.finish(str(error))
        print(error, file=sys.stderr)
        return 2
    else:
        report.finish()
    finally:
        if report.folder:
            summarise(report.data, report.folder)
    for measured in found:
        print(measured.summary)
    return 0
