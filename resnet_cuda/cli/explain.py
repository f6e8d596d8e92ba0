"""Explain a model: per convolution unit the kernel, tile, reason, FLOPs, bytes and floor."""

from __future__ import annotations

import argparse
import sys

import torch

from resnet_cuda.explain import explain
from resnet_cuda.models import create_model, list_models
from resnet_cuda.trace.gpus import GPUS

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"one of {', '.join(list_models())}")
    parser.add_argument("--batch", type=int, default=1, help="images (default 1)")
    parser.add_argument("--image-size", type=int, default=224, help="pixels per side (default 224)")
    parser.add_argument("--dtype", choices=sorted(_DTYPES), default="float32")
    parser.add_argument("--training", action="store_true", help="with the backward passes")
    parser.add_argument("--gpu", choices=sorted(GPUS), default="H200", help="whose floors to tell")
    parser.add_argument("--contiguous", action="store_true", help="NCHW instead of channels_last")


def run(arguments: argparse.Namespace) -> int:
    try:
        model = create_model(arguments.model)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    layout = torch.contiguous_format if arguments.contiguous else torch.channels_last
    dtype = _DTYPES[arguments.dtype]
    model = model.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    size = arguments.image_size
    x = torch.zeros(arguments.batch, 3, size, size, dtype=dtype).to(memory_format=layout)
    print(explain(model, x, training=arguments.training, gpu=GPUS[arguments.gpu]))
    return 0
