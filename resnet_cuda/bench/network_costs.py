"""What a network must do at least, arithmetic, traffic and memory: from `explain` and, in training, from `trace`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import nn

from resnet_cuda import explain, fuse
from resnet_cuda.bench import networks, training_passes
from resnet_cuda.bench.ceilings import Part

_BATCH = 2  # of the pass that is explained; everything scales
_GATES_AT_ZERO_ULPS = 4
_LEAST_VALUES = 4  # per channel, in a training step


@dataclass(frozen=True)
class _Pass:
    """One convolution pass or matrix product: floating-point operations and activations per image, weights."""

    flops: int
    activations: int
    weights: int


@dataclass(frozen=True)
class Costs:
    """Of one network at one image size. Sizes are elements.

    A floor is the sum over perfect kernels, each of which reads and writes its tensors once. At inference they are one
    per convolution unit (convolution, batch norm, addition, ReLU); in training the passes that the executor of branches
    makes; and the classifier's matrix products. In no floor: the pools, the loss, the optimizer, and what torch does
    with vectors and small matrices between two passes.
    """

    network: str
    image_size: int
    forward: tuple[_Pass, ...]  # at inference
    classifiers: tuple[_Pass, ...]
    parameters: int
    outputs: tuple[int, ...]  # per image, of every unit
    pixels: int  # of the smallest unit's output

    def parts(self, batch: int, dtype: torch.dtype, training: bool) -> list[Part]:
        passes = self.classifiers * 3 if training else self.forward + self.classifiers
        parts = [
            (batch * p.flops, dtype.itemsize * (batch * p.activations + p.weights)) for p in passes
        ]
        return (
            [*_training(self.network, self.image_size, batch, dtype), *parts] if training else parts
        )

    def flops(self, batch: int, training: bool) -> int:
        return sum(flops for flops, _ in self.parts(batch, torch.float32, training))

    def memory(self, batch: int, dtype: torch.dtype, training: bool) -> int:
        """Bytes without which no candidate runs: in training one tensor of every unit, its convolution's
        output or, where that is not stored, the branch's; else the largest input and output of one pass."""
        size = dtype.itemsize
        if training:  # weights with gradients and momenta
            return size * (3 * self.parameters + batch * sum(self.outputs))
        return size * (self.parameters + batch * max(p.activations for p in self.forward))

    def training_batch(self, batch: int) -> int:
        """`batch`, or the least with which batch norm's statistics are of enough values to be differentiated: of two
        values, the gradient is zero but for rounding."""
        return max(batch, math.ceil(_LEAST_VALUES / self.pixels))

    def flipped_gates(self, batch: int, dtype: torch.dtype) -> float:
        """The relative change of a gradient, in L2 norm, by the ReLU gates that rounding flips where there are fewest
        gates: one, and those of all whose sum is zero within a few units in the last place of the largest."""
        gates = batch * min(self.outputs)
        return math.sqrt(1 / gates + _GATES_AT_ZERO_ULPS * torch.finfo(dtype).eps)


@functools.lru_cache(maxsize=8)
def costs(network: str, pixels: int) -> Costs:
    """Raises Absent where there is no such network."""
    module = networks.plain(network)[0]
    classifiers = [m for m in module.modules() if isinstance(m, nn.Linear)]
    parameters = sum(p.numel() for p in module.parameters())
    x = networks.images(_BATCH, pixels, torch.float32, torch.device("cpu"))
    units = explain(fuse(module, inplace=True), x).units
    forward: list[_Pass] = []
    for unit in units:
        weights = math.prod(unit.weight)
        for p in unit.passes:
            activations = p.bytes // torch.float32.itemsize - weights
            forward.append(_Pass(p.flops // _BATCH, activations // _BATCH, weights))
    sizes = [(linear.in_features, linear.out_features) for linear in classifiers]
    products = tuple(_Pass(2 * i * o, i + o, i * o) for i, o in sizes)
    outputs = tuple(math.prod(unit.output) // _BATCH for unit in units)
    smallest = min(math.prod(unit.output[2:]) for unit in units)
    return Costs(network, pixels, tuple(forward), products, parameters, outputs, smallest)


@functools.lru_cache(maxsize=32)
def _training(network: str, pixels: int, batch: int, dtype: torch.dtype) -> tuple[Part, ...]:
    """Of the fused calls of a training step."""
    module = networks.plain(network)[0]
    traces = training_passes.of_module(module, (batch, 3, pixels, pixels), dtype, False)
    return tuple(part for one in traces for part in training_passes.parts(one))
