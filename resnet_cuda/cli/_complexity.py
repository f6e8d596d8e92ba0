"""`info MODEL` and `info --compare`: what models cost, by counting alone."""

from __future__ import annotations

import argparse
import sys

import torch

from resnet_cuda.bench import complexity, family
from resnet_cuda.bench.tables import Cell, Table, format_bytes, format_us, show
from resnet_cuda.models import image_size, list_models
from resnet_cuda.trace.gpus import GPUS
from resnet_cuda.training.progress import progress_bar

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", help=f"what it costs; one of {', '.join(list_models())}"
    )
    parser.add_argument(
        "--compare", action="store_true", help="the networks that the papers compare, side by side"
    )
    group = parser.add_argument_group("of a model")
    group.add_argument("--batch", type=int, default=32, help="images (default 32)")
    group.add_argument(
        "--image-size", type=int, help="pixels per side (default: as in the model's paper)"
    )
    group.add_argument("--dtype", choices=sorted(_DTYPES), default="bfloat16")
    group.add_argument("--gpu", choices=sorted(GPUS), default="H200", help="whose floors to tell")


def compare() -> int:
    show(family.tables())
    return 0


def describe(arguments: argparse.Namespace) -> int:
    name, batch, gpu = arguments.model, arguments.batch, GPUS[arguments.gpu]
    for option in ("batch", "image_size"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            print(f"--{option.replace('_', '-')} is {value}; accepted: at least 1", file=sys.stderr)
            return 2
    try:
        size = arguments.image_size or image_size(name)
        counts = complexity.count_model(name, size)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{'parameters:':22} {counts.parameters:,}")
    print(f"{'MACs per image:':22} {counts.macs:,} at {size}x{size}, convolutions and classifier")
    print(f"{'activations per image:':22} {counts.activations:,} elements, convolutions' outputs\n")
    dtype = _DTYPES[arguments.dtype]
    found = []
    try:
        with progress_bar("counting bytes", 2) as advance:
            for training in (False, True):
                found.append(complexity.movement(name, batch, size, dtype, training, gpu))
                advance("")
    except (ValueError, RuntimeError) as error:
        print(f"bytes are not counted: {error}", file=sys.stderr)
        return 2
    show([_table(arguments, size, found)])
    return 0


def _table(arguments: argparse.Namespace, size: int, found: list[complexity.Movement]) -> Table:
    gpu = GPUS[arguments.gpu]
    rows = [
        [
            Cell("training step" if one.training else "inference"),
            Cell(f"{one.flops / 1e9:.1f}"),
            *(Cell(format_bytes(moved)) for moved in (one.plain, one.fused)),
            Cell(f"{one.fused / one.plain:.2f}"),
            Cell(format_us(one.floor_us)),
        ]
        for one in found
    ]
    title = f"{arguments.model}, batch {arguments.batch}, {size}x{size}, {arguments.dtype}, channels_last"
    rate = gpu.flops[_DTYPES[arguments.dtype]]
    rates = f"{gpu.bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.4g} TFLOP/s"
    if arguments.dtype == "float32":
        rates += f" ({gpu.tf32_flops / 1e12:.4g} in TF32, where `explain` names it)"
    header = ["", "GFLOP", "unfused", "fused", "fused/unfused", f"floor on {gpu.name}"]
    notes = [
        "bytes: the operands of every operation, each read or written once by each operation that needs it",
        f"GFLOP and floor: of the fused convolution units' passes, each as a perfect kernel; {gpu.name}: {rates} "
        f"({gpu.source})",
        "counted, not measured: docs/benchmarks.md says how time is measured",
    ]
    return Table(title, header, rows, notes)
