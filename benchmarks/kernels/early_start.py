"""What it is worth that kernels start while those before them run: the same launches with it and without, in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_cuda import _selection
from resnet_cuda.bench import computation, costs, eager
from resnet_cuda.bench.computation import EPS, Way, convolution_inputs
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.testing.problems import ConvProblem

raw = torch.ops.resnet_cuda
DTYPE = torch.bfloat16
IN_ORDER = "each after the one before"
_ROUNDS = 4
# Of kernels that take some ten microseconds, which starting is a part of, and of longer ones.
_BATCHES = (16, 256)
_CHANNELS, _EDGE = 512, 7  # stage 4's 3x3
_SMALL_CHANNELS = 64


def workloads(device: Device, small: bool = False) -> Iterator[Workload]:
    """A training step's forward over 3x3 convolutions in a row, each with its statistics, normalised by the next.

    small: for the emulator.
    """
    channels = _SMALL_CHANNELS if small else _CHANNELS
    for batch in (2,) if small else _BATCHES:
        conv = ConvProblem(batch, channels, _EDGE, _EDGE, channels, 3, 3, padding=1)
        yield _in_a_row(device, Layer(conv, batch_norm=True, relu=True))


def _in_a_row(device: Device, layer: Layer) -> Workload:
    conv = layer.conv
    geometry = ((1, 1), (1, 1), (1, 1), 1)
    pixels = conv.N * conv.P * conv.Q

    def ours(g: Given) -> Callable[[], object]:
        x, weight, gamma, beta = (g[name] for name in ("x", "weight", "gamma", "beta"))

        def run() -> Tensor:
            y, on_load = x, (None, None)
            for _ in range(_ROUNDS):
                y, sums, *_ = raw._conv_fprop(
                    y, weight, *on_load, None, None, None, False, *geometry, True
                )
                *_, scale, bias = raw._bn_finalize(sums, pixels, gamma, beta, None, None, 0.0, EPS)
                on_load = scale, bias
            return y

        return run

    def in_order(g: Given) -> Callable[[], object]:
        run = ours(g)

        def switched_off() -> object:
            with _selection.starting_early(False):
                return run()

        return switched_off

    def plain(g: Given) -> Mapping[str, Tensor]:
        y = g["x"]
        for index in range(_ROUNDS):
            z = y if index == 0 else eager.batch_norm(y, g.fresh(), training=True).relu_()
            y = eager.convolve(z, g["weight"], conv)
        return {"y": y}

    part = costs.fprop(conv, DTYPE, statistics=True, on_load=True)
    facts: dict[str, Any] = {
        "op": "forward",
        "peer": "the same launches, none of which starts early",
    }
    return computation.workload(
        device,
        DTYPE,
        level="kernel",
        name=f"{_ROUNDS} times {conv} and its batch norm in a row",
        pass_name="conv_fprop",
        inputs=lambda random: convolution_inputs(layer, random),
        plain=plain,
        ways=[Way(OURS, ours), Way(IN_ORDER, in_order)],
        parts=[part] * _ROUNDS,
        part_of_network=layer,
        facts=facts,
    )
