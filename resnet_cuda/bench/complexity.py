"""What a model costs, without computing it: parameters, multiply-accumulates, activations, bytes and floors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from resnet_cuda import explain, models, unfuse
from resnet_cuda.bench import layers, traffic
from resnet_cuda.trace import on_kernels
from resnet_cuda.trace.gpus import Gpu


class Counts(NamedTuple):
    """Of one network and one image.

    macs: multiply-accumulates of convolutions and linear layers. activations: elements that the convolutions write
    (Radosavovic et al. 2020, arXiv 2003.13678, sec. 4).
    """

    parameters: int
    macs: int
    activations: int


def count(module: nn.Module, image_size: int, channels: int = 3) -> Counts:
    """Of a plain module on the meta device, for images [1, channels, image_size, image_size]."""
    convolutions = layers.trace(module, (1, channels, image_size, image_size)).convolutions
    linear = sum(
        m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear)
    )
    return Counts(
        sum(p.numel() for p in module.parameters()),
        linear + sum(layer.count * layer.conv.macs for layer in convolutions),
        sum(layer.count * layer.conv.K * layer.conv.P * layer.conv.Q for layer in convolutions),
    )


@cache
def count_model(name: str, pixels: int | None = None, **options: Any) -> Counts:
    """`count` of a model of `resnet_cuda.models`; pixels: per side, by default as in its paper; options: those of
    its function.

    Raises:
        ValueError: there is no such model.
    """
    with torch.device("meta"):
        module = unfuse(models.create_model(name, **options), inplace=True)
    return count(module, pixels or models.image_size(name))


@dataclass(frozen=True)
class Movement:
    """One call at inference, or one training step without loss and optimizer.

    Bytes are those of the operands of every operation, each read or written once by an operation that needs it
    (`bench.operations`): of the plain network torch's operations, of the fused one our kernels' passes and what is left
    to torch. floor_us: of the passes of the fused convolution units, each as a perfect kernel (`explain`).
    """

    training: bool
    flops: int  # of those passes
    plain: int
    fused: int
    floor_us: float


def movement(
    name: str, batch: int, image_size: int, dtype: torch.dtype, training: bool, gpu: Gpu
) -> Movement:
    """Of a model in channels_last, on tensors without values.

    Raises:
        ValueError: there is no such model.
        RuntimeError: the compiled extension is missing, whose schemas the passes go by.
    """
    with torch.device("meta"):
        fused = models.create_model(name)
    fused = fused.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    plain = unfuse(fused.train(training))
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (fused, plain):
            module.to_empty(device="cpu")
        x = torch.empty((batch, 3, image_size, image_size), dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        eager = traffic.operations(plain, x)
        with on_kernels():
            ours = traffic.operations(fused, x)
        with warnings.catch_warnings():
            # torch's own deepcopy asks tensors without values for their address.
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
            report = explain(fused, x, gpu=gpu)
    return Movement(
        training,
        report.flops,
        sum(operation.operand_bytes for operation in eager),
        sum(operation.operand_bytes for operation in ours),
        report.floor_us,
    )
