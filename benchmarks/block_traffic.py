"""Bytes of training one residual block of each stage of ResNet-50: what the executor's trace says, what the emulated
kernels touch, the least that the plan in closed form needs, and what separate passes move.

    python -m benchmarks.block_traffic                    # every stage, identity and projection, small
    python -m benchmarks.block_traffic --stage 4 --batch 8
    python -m benchmarks.block_traffic --trace            # shapes only: batch 256 and ImageNet's sizes, no kernel runs

Activations (with gradients and ReLU's bits) are what grows with the batch, and what the ratios are of. Weights, Gram
matrices, vectors and workspaces stand apart: in small problems they are most of the bytes.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from resnet_cuda import fuse, reference
from resnet_cuda.bench import training_passes
from resnet_cuda.bench.operations import Operation
from resnet_cuda.bench.tables import Cell, Table, show
from resnet_cuda.bench.traffic import operations
from resnet_cuda.testing import emulated
from resnet_cuda.trace import BACKWARD, TORCH, Pass, Trace

DTYPE = torch.bfloat16
OF_PLAN, OF_UNFUSED = (
    1.1,
    0.45,
)  # the goals: at most so many of the plan's bytes, and of separate passes'
IMAGENET_BATCH = 256
STAGES = (1, 2, 3, 4)

# Of the emulated kernels' tensors those that hold activations, their gradients, or bits.
_ACTIVATIONS = {"x", "y", "z", "dx", "dy", "dz", "act", "residual", "mask", "addend", "addend_mask"}

Sizes = list[tuple[str, int]]  # (pass, bytes of activations)


@dataclass(frozen=True)
class Case:
    """A bottleneck block: `image` is the side of its output."""

    stage: int
    projection: bool
    batch: int
    image: int

    @property
    def width(self) -> int:
        return 32 * 2**self.stage

    @property
    def stride(self) -> int:
        return 2 if self.projection and self.stage > 1 else 1

    @property
    def channels(self) -> int:
        """Of its input."""
        if not self.projection:
            return 4 * self.width
        return 64 if self.stage == 1 else 2 * self.width

    @property
    def shape(self) -> tuple[int, int, int, int]:
        side = self.image * self.stride
        return self.batch, self.channels, side, side

    def module(self) -> nn.Module:
        width, stride = self.width, self.stride
        if not self.projection:
            return reference.Bottleneck(4 * width, width)
        shortcut = nn.Sequential(
            nn.Conv2d(self.channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
        )
        return reference.Bottleneck(self.channels, width, stride, shortcut)

    def __str__(self) -> str:
        shortcut = "projection" if self.projection else "identity"
        return f"stage {self.stage} {shortcut} n{self.batch}-{self.image}x{self.image}"


def imagenet(stage: int, projection: bool) -> Case:
    """As in ResNet-50 on 224 x 224 pixels."""
    return Case(stage, projection, IMAGENET_BATCH, 112 >> stage)


class Tensors:
    """Sizes of a block's activations in bytes: x -> y1 -> y2 -> (y3 ->) z, whose ReLU is kept as bits."""

    def __init__(self, case: Case) -> None:
        pixels, sampled = case.batch * case.shape[2] ** 2, case.batch * case.image**2
        size = DTYPE.itemsize
        self.x = size * pixels * case.channels
        self.x_sampled = size * sampled * case.channels  # what the projection reads
        self.y1 = size * pixels * case.width
        self.y2 = size * sampled * case.width
        self.z = 4 * self.y2
        self.bits = self.z // (8 * size)


def plan(case: Case) -> Sizes:
    """The least that batch norm in closed form, normalisation on load and gradients formed on load need."""
    t = Tensors(case)
    du = t.z + t.bits  # the gradient behind the block's ReLU, gated by its bits on load
    shortcut = t.x_sampled if case.projection else t.x
    passes = [
        ("conv1", t.x + t.y1),
        ("conv2", t.y1 + t.y2),
        ("gram of y2", t.y2),
        ("expand", t.y2 + shortcut + t.z + t.bits),
        ("wgrad3", du + t.y2),
        ("dgrad3", du + t.y2 + t.y2),
        ("wgrad2", 2 * t.y2 + t.y1),
        ("dgrad2", 2 * t.y2 + t.y1 + t.y1),
        ("wgrad1", 2 * t.y1 + t.x),
        ("dgrad1", 2 * t.y1 + du + t.x + (t.x_sampled if case.projection else 0)),
    ]
    if case.projection:
        passes += [("gram of x", t.x_sampled), ("wgrad of the projection", du + t.x_sampled)]
    return passes


def unfused(case: Case) -> Sizes:
    """A kernel each for convolution, batch norm's statistics, its application, ReLU and addition; likewise backward."""
    t = Tensors(case)

    def forward(name: str, read: int, y: int) -> Sizes:
        return [(f"conv{name}", read + y), (f"statistics{name}", y), (f"apply{name}", 2 * y)]

    def backward(name: str, read: int, dx: int, y: int) -> Sizes:
        norm = [(f"bn reduce{name}", 2 * y), (f"bn apply{name}", 3 * y)]
        return [*norm, (f"dgrad{name}", y + dx), (f"wgrad{name}", y + read)]

    passes = [
        *(*forward("1", t.x, t.y1), ("relu1", 2 * t.y1)),
        *(*forward("2", t.y1, t.y2), ("relu2", 2 * t.y2)),
        *(*forward("3", t.y2, t.z), ("add", 3 * t.z), ("relu3", 2 * t.z)),
        *(("relu3 backward", 3 * t.z), *backward("3", t.y2, t.y2, t.z)),
        *(("relu2 backward", 3 * t.y2), *backward("2", t.y1, t.y1, t.y2)),
        *(("relu1 backward", 3 * t.y1), *backward("1", t.x, t.x, t.y1)),
        ("sum of both gradients", 3 * t.x),
    ]
    if case.projection:
        passes += forward(" of the projection", t.x_sampled, t.z)
        passes += backward(" of the projection", t.x_sampled, t.x, t.z)
    return passes


def total(passes: Sizes) -> int:
    return sum(size for _, size in passes)


@dataclass(frozen=True)
class Measured:
    """The kernel that an op launched first, and the distinct bytes that its launches touched."""

    kernel: str
    activations: int
    others: int


def trace_of(case: Case) -> Trace:
    (traced,) = training_passes.of_module(case.module(), case.shape, DTYPE, True)
    return traced


def moved(traced: Trace) -> int:
    """Activations, by the trace."""
    return sum(one.bytes.activations for one in traced.passes)


def measure(case: Case, traced: Trace) -> list[Measured | None]:
    """Of each traced pass, from a step on the emulated kernels; None: it is torch's.

    Raises:
        RuntimeError: other ops ran than were traced.
    """
    torch.manual_seed(case.stage)
    module = fuse(copy.deepcopy(case.module()).to(DTYPE), inplace=True).train()
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(case.shape).to(DTYPE).to(memory_format=torch.channels_last).requires_grad_()
    with emulated(count=True) as emulation:

        def launches() -> list[dict[str, object]]:
            found = emulation.launches()
            emulation.clear()
            return found

        ran = [
            one for one in operations(module, x, launches) if one.name.startswith("resnet_cuda::")
        ]
    ours = [one for one in traced.passes if one.is_kernel]
    names = [one.name.removeprefix("resnet_cuda::_") for one in ran]
    if names != [one.name for one in ours]:
        raise RuntimeError(f"traced {[one.name for one in ours]}, but these ran: {names}")
    remaining = iter(ran)
    return [_touched(next(remaining), one) if one.is_kernel else None for one in traced.passes]


def _touched(operation: Operation, one: Pass) -> Measured:
    activations = others = 0
    for launch in operation.launches:
        for name, (loaded, stored) in launch["tensors"].items():
            if name in _ACTIVATIONS and one.bytes.activations:
                activations += loaded + stored
            else:
                others += loaded + stored
    return Measured(operation.launches[0]["kernel"], activations, others)


@dataclass(frozen=True)
class Line:
    """One block's totals. measured: the trace's figure where no kernel ran. matrices, torchs: what our kernels and what
    torch moves beside the activations, by the trace.
    """

    case: Case
    traced: int
    measured: int
    plan: int
    unfused: int
    matrices: int
    torchs: int

    @property
    def of_plan(self) -> float:
        return self.measured / self.plan

    @property
    def of_unfused(self) -> float:
        return self.measured / self.unfused


def line(case: Case, traced: Trace, measured: Sequence[Measured | None] | None = None) -> Line:
    by_trace = moved(traced)
    found = by_trace
    if measured is not None:
        found = sum(
            m.activations if m else one.bytes.activations
            for m, one in zip(measured, traced.passes, strict=True)
        )
    rest = dict.fromkeys((True, False), 0)
    for one in traced.passes:
        rest[one.is_kernel] += one.bytes.matrices + one.bytes.small
    totals = (total(plan(case)), total(unfused(case)))
    return Line(case, by_trace, found, *totals, rest[True], rest[False])


def pass_table(case: Case, traced: Trace, measured: Sequence[Measured | None]) -> Table:
    rows = []
    for one, m in zip(traced.passes, measured, strict=True):
        if one.name == TORCH and not one.bytes.matrices:
            continue  # a few vectors
        others = one.bytes.matrices + one.bytes.small
        found = (None, None) if m is None else (m.activations, m.others)
        figures = (one.bytes.activations, found[0], others, found[1])
        name = f"{one.phase}: {one.name}" if one.phase == BACKWARD else one.name
        rows.append([Cell(name), *(Cell("-" if n is None else f"{n / 1e3:.1f}") for n in figures)])
    header = ["pass", "activations: trace", "measured", "the rest: trace", "measured"]
    notes = ["kB; the rest: weights, Gram matrices, vectors and, where measured, workspaces"]
    return Table(str(case), header, rows, notes)


def summary_table(lines: Sequence[Line], measured: bool) -> Table:
    rows = []
    for one in lines:
        figures = (one.traced, one.measured, one.plan, one.unfused)
        shown = [Cell(f"{n / 1e6:.2f}") for n in figures]
        ratios = [Cell(f"{one.of_plan:.3f}"), Cell(f"{one.of_unfused:.3f}")]
        rest = [Cell(f"{n / 1e6:.2f}") for n in (one.matrices, one.torchs)]
        figures_shown = shown if measured else shown[:1] + shown[2:]
        rows.append([Cell(str(one.case)), *figures_shown, *ratios, *rest])
    header = ["activations, MB", "trace", *(["measured"] if measured else []), "plan", "unfused"]
    notes = [
        f"goals: at most {OF_PLAN} of the plan, at most {OF_UNFUSED} of unfused passes",
        "the rest, by the trace: weights, Gram matrices, vectors, partial sums; torch's: the same between two kernels",
    ]
    title = "residual blocks of ResNet-50 in training, forward and backward, bfloat16"
    return Table(title, [*header, "of plan", "of unfused", "the rest", "torch's"], rows, notes)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.block_traffic", description=__doc__)
    parser.add_argument("--stage", type=int, nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--batch", type=int, default=2, metavar="N", help="images")
    parser.add_argument("--image", type=int, default=8, help="side of a block's output")
    parser.add_argument("--trace", action="store_true", help="ImageNet's sizes, by the trace alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """0; 1 where a goal is missed."""
    options = parse(arguments)
    lines = []
    for stage in options.stage:
        for projection in (True, False):
            case = Case(stage, projection, options.batch, options.image)
            if options.trace:
                case = imagenet(stage, projection)
            traced = trace_of(case)
            measured = None if options.trace else measure(case, traced)
            lines.append(line(case, traced, measured))
            if measured is not None:
                show([pass_table(case, traced, measured)])
    show([summary_table(lines, not options.trace)])
    missed = [one for one in lines if one.of_plan > OF_PLAN or one.of_unfused > OF_UNFUSED]
    for one in missed:
        print(f"{one.case}: {one.of_plan:.3f} of the plan, {one.of_unfused:.3f} of unfused passes")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
