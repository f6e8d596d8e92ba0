"""Convolution problems for tests and benchmarks: every layer of the ImageNet ResNets, and small
adversarial ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConvProblem:
    """A convolution x [N, C, H, W] * weight [K, C / groups, R, S] -> [N, K, P, Q]; `count`: how
    often a network has it."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    count: int = 1

    @property
    def P(self) -> int:
        return (self.H + 2 * self.padding - self.dilation * (self.R - 1) - 1) // self.stride + 1

    @property
    def Q(self) -> int:
        return (self.W + 2 * self.padding - self.dilation * (self.S - 1) - 1) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one such convolution."""
        return self.N * self.P * self.Q * self.K * (self.C // self.groups) * self.R * self.S

    def geometry(self) -> dict[str, int]:
        """The keyword arguments that the ops take."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def __str__(self) -> str:
        text = f"n{self.N}-{self.C}x{self.H}x{self.W}-k{self.K}-{self.R}x{self.S}"
        for letter, value, default in (
            ("s", self.stride, 1),
            ("p", self.padding, 0),
            ("d", self.dilation, 1),
            ("g", self.groups, 1),
        ):
            if value != default:
                text += f"-{letter}{value}"
        return text


@dataclass
class ConvBnInputs:
    """Random tensors of one conv + batch norm call."""

    x: Tensor
    weight: Tensor
    gamma: Tensor
    beta: Tensor
    running_mean: Tensor
    running_var: Tensor
    residual: Tensor

    def leaves(self) -> list[Tensor]:
        """The differentiable tensors: x, weight, gamma, beta, residual."""
        return [self.x, self.weight, self.gamma, self.beta, self.residual]


def make_inputs(
    problem: ConvProblem,
    dtype: torch.dtype,
    *,
    device: str = "cpu",
    seed: int = 0,
    requires_grad: bool = False,
) -> ConvBnInputs:
    """Inputs of typical size; gamma has zeros and negative values, per-channel tensors float32 for
    low precision."""
    p, generator = problem, torch.Generator().manual_seed(seed)
    vectors = torch.float64 if dtype == torch.float64 else torch.float32

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    def channels_last(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype).contiguous(memory_format=torch.channels_last)

    fan_in = p.C // p.groups * p.R * p.S
    gamma = normal(p.K)
    gamma[:: max(p.K // 3, 2)] = 0.0
    inputs = ConvBnInputs(
        x=channels_last(normal(p.N, p.C, p.H, p.W)),
        weight=channels_last(normal(p.K, p.C // p.groups, p.R, p.S) * (2 / fan_in) ** 0.5),
        gamma=gamma.to(device, vectors),
        beta=(normal(p.K) * 0.5).to(device, vectors),
        running_mean=(normal(p.K) * 0.3).to(device, vectors),
        running_var=(torch.rand(p.K, generator=generator, dtype=torch.float64) + 0.5).to(
            device, vectors
        ),
        residual=channels_last(normal(p.N, p.K, p.P, p.Q)),
    )
    if requires_grad:
        for tensor in inputs.leaves():
            tensor.requires_grad_()
    return inputs


_BLOCKS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}


def resnet_layers(
    depth: int, batch: int = 1, size: int = 224, *, groups: int = 1, group_width: int = 64
) -> list[ConvProblem]:
    """The distinct convolutions of ResNet-`depth` (He et al. 2015, table 1; stride in the 3x3,
    "v1.5") with their counts; of ResNeXt where there are groups (Xie et al. 2017, table 1)."""
    kind, stages = _BLOCKS[depth]
    problems = [ConvProblem(batch, 3, size, size, 64, 7, 7, 2, 3)]
    channels, pixels = 64, (size // 2 - 1) // 2 + 1  # after the stem and the max pool
    for stage, blocks in enumerate(stages):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            half = (pixels - 1) // stride + 1

            def conv(c: int, h: int, k: int, r: int, s: int, groups: int = 1) -> ConvProblem:
                return ConvProblem(batch, c, h, h, k, r, r, s, r // 2, groups=groups)

            out = width if kind == "basic" else 4 * width
            inner = width * group_width * groups // 64
            if kind == "basic":
                problems.append(conv(channels, pixels, width, 3, stride))
                problems.append(conv(width, half, width, 3, 1))
            else:
                problems.append(conv(channels, pixels, inner, 1, 1))
                problems.append(conv(inner, pixels, inner, 3, stride, groups))
                problems.append(conv(inner, half, out, 1, 1))
            if block == 0 and (stride != 1 or channels != out):
                problems.append(conv(channels, pixels, out, 1, stride))
            channels, pixels = out, half
    return _distinct(problems)


def wide_resnet_layers(
    depth: int, widening: int, batch: int = 1, size: int = 32
) -> list[ConvProblem]:
    """The same of WRN-`depth`-`widening` for small images (Zagoruyko and Komodakis 2016, table 1)."""
    problems = [ConvProblem(batch, 3, size, size, 16, 3, 3, 1, 1)]
    channels, pixels = 16, size
    for stage in range(3):
        width = 16 * widening << stage
        for block in range((depth - 4) // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            half = (pixels - 1) // stride + 1
            problems.append(ConvProblem(batch, channels, pixels, pixels, width, 3, 3, stride, 1))
            problems.append(ConvProblem(batch, width, half, half, width, 3, 3, 1, 1))
            if channels != width:
                problems.append(ConvProblem(batch, channels, pixels, pixels, width, 1, 1, stride))
            channels, pixels = width, half
    return _distinct(problems)


def _distinct(problems: Sequence[ConvProblem]) -> list[ConvProblem]:
    """Each once, with how often it was there."""
    counts: dict[ConvProblem, int] = {}
    for problem in problems:
        counts[problem] = counts.get(problem, 0) + 1
    return [replace(problem, count=count) for problem, count in counts.items()]


def pairwise(
    factors: Mapping[str, Sequence[Any]], valid: Callable[[Mapping[str, Any]], bool], seed: int = 0
) -> list[dict[str, Any]]:
    """Few combinations that together contain every pair of values of every two factors (of which a
    valid one exists).

    Greedy: each row is the best of some random candidates, built around a pair that is still missing.
    """
    rng = random.Random(seed)
    names = list(factors)
    missing = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }

    def covered(row: Mapping[str, int]) -> set[tuple[str, int, str, int]]:
        return {(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)}

    def values(row: Mapping[str, int]) -> dict[str, Any]:
        return {name: factors[name][row[name]] for name in names}

    rows: list[dict[str, Any]] = []
    while missing:
        a, i, b, j = min(missing)
        best: dict[str, int] | None = None
        for _ in range(200):
            row = {name: rng.randrange(len(factors[name])) for name in names}
            row[a], row[b] = i, j
            if valid(values(row)) and (
                best is None or len(covered(row) & missing) > len(covered(best) & missing)
            ):
                best = row
        if best is None:
            missing.discard((a, i, b, j))
            continue
        missing -= covered(best)
        rows.append(values(best))
    return rows


_ADVERSARIAL: dict[str, Sequence[Any]] = {
    "kernel": (1, 3, 5, 7),
    "stride": (1, 2, 3),
    "padding": (0, 1, 2, 3),
    "dilation": (1, 2),
    "groups": (1, 2, "C"),
    "channels": ((3, 5), (4, 6), (6, 4), (1, 1), (7, 7)),
    "image": ((1, 1), (5, 4), (7, 6), (8, 9)),
    "batch": (1, 2, 3),
}


def adversarial_problems(seed: int = 0) -> list[ConvProblem]:
    """Small problems that cover every pair of kernel, stride, padding, dilation, groups, odd
    channels, image and batch sizes."""

    def valid(row: Mapping[str, Any]) -> bool:
        problem = _problem(row)
        return (
            problem.C % problem.groups == 0
            and problem.K % problem.groups == 0
            and problem.P >= 1
            and problem.Q >= 1
        )

    found = [_problem(row) for row in pairwise(_ADVERSARIAL, valid, seed)]
    return list(dict.fromkeys(found))


def _problem(row: Mapping[str, Any]) -> ConvProblem:
    c, k = row["channels"]
    groups = row["groups"]
    if groups == "C":
        groups, k = c, 2 * c
    h, w = row["image"]
    return ConvProblem(
        row["batch"],
        c,
        h,
        w,
        k,
        row["kernel"],
        row["kernel"],
        row["stride"],
        row["padding"],
        row["dilation"],
        groups,
    )
