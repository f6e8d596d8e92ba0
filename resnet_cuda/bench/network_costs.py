"""What a network must do at least: arithmetic, traffic and memory, from `resnet_cuda.explain`."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import nn

from resnet_cuda import explain, fuse
from resnet_cuda.bench import networks
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

    A floor is the sum over perfect fused kernels: one per convolution unit (convolution, batch norm, addition, ReLU)
    and pass, which reads its input, weight and residual once and writes its output once; in training two more that
    read and write three such operands each; and the classifier's matrix products. In no floor: the pools, the loss, the
    optimizer, batch norm's vectors, and traffic that only a fusion beyond one unit saves.
    """

    forward: tuple[_Pass, ...]
    backward: tuple[_Pass, ...]
    parameters: int
    outputs: tuple[int, ...]  # per image, of every unit
    pixels: int  # of the smallest unit's output

    def parts(self, batch: int, dtype: torch.dtype, training: bool) -> list[Part]:
        passes = self.forward + self.backward if training else self.forward
        return [
            (batch * p.flops, dtype.itemsize * (batch * p.activations + p.weights)) for p in passes
        ]

    def flops(self, batch: int, training: bool) -> int:
        return sum(flops for flops, _ in self.parts(batch, torch.float32, training))

    def memory(self, batch: int, dtype: torch.dtype, training: bool) -> int:
        """Bytes without which no candidate runs: in training what the backward pass needs of every unit, the
        convolution's output and the normalised one; else the largest input and output of one pass."""
        size = dtype.itemsize
        if training:  # weights with gradients and momenta
            return size * (3 * self.parameters + 2 * batch * sum(self.outputs))
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
    units = explain(fuse(module, inplace=True), x, training=True).units
    forward: list[_Pass] = []
    backward: list[_Pass] = []
    for unit in units:
        weights = math.prod(unit.weight)
        for p in unit.passes:
            activations = p.bytes // torch.float32.itemsize - weights
            one = _Pass(p.flops // _BATCH, activations // _BATCH, weights)
            (forward if p.name == "fprop" else backward).append(one)
    for linear in classifiers:
        inner, outer = linear.in_features, linear.out_features
        product = _Pass(2 * inner * outer, inner + outer, inner * outer)
        forward.append(product)
        backward += [product, product]
    outputs = tuple(math.prod(unit.output) // _BATCH for unit in units)
    smallest = min(math.prod(unit.output[2:]) for unit in units)
    return Costs(tuple(forward), tuple(backward), parameters, outputs, smallest)
