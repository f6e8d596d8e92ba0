"""Bytes that autograd holds between the forward and the backward of one residual block of ResNet-50, in bfloat16: eager
torch, and our kernels under the emulator that save or recompute.

    python -m benchmarks.block_memory                     # every stage, identity and projection, for batch 256
    python -m benchmarks.block_memory --stage 4 --batch 32

Measured on one and on two images of ImageNet's sizes: what differs is an image's share, the rest is the same at any
batch (matrices and vectors). From both follows what a batch holds, exactly.

The block's input x is held by everybody, and eager's ReLU holds the output z. In a network one block's z is the next
one's x and counted once. So ratios are given with x, without it, and "in a row": with x, without z.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.block_traffic import DTYPE, IMAGENET_BATCH, STAGES, Case, imagenet
from resnet_cuda import fuse
from resnet_cuda.bench.tables import Cell, Table, show
from resnet_cuda.ops._branch import MEMORY_POLICIES
from resnet_cuda.testing import emulated

GOALS = {"save": 0.5, "recompute": 0.2}  # of eager's bytes, without x


class Held(NamedTuple):
    """Bytes in distinct storages; parameters and buffers apart."""

    x: int
    z: int
    inside: int

    @property
    def all(self) -> int:
        return sum(self)

    @property
    def without_x(self) -> int:
        return self.z + self.inside

    @property
    def in_a_row(self) -> int:
        return self.x + self.inside


def held(block: nn.Module, x: Tensor) -> Held:
    """What autograd keeps of block(x) for the backward."""
    own = {t.untyped_storage().data_ptr() for t in (*block.parameters(), *block.buffers())}
    found: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        z = block(x)
    ends = [found.pop(t.untyped_storage().data_ptr(), 0) for t in (x, z)]
    return Held(*ends, sum(found.values()))


def measure(case: Case, policy: str | None) -> Held:
    """policy: of the fused block; None: eager's own, channels_last, weights in bfloat16 no autocast, ReLU in place."""
    torch.manual_seed(case.stage)
    block = case.module().to(DTYPE)
    context: AbstractContextManager[Any] = nullcontext()
    if policy is not None:
        block, context = fuse(block, memory=policy), emulated()
    block = block.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(case.shape).to(DTYPE).contiguous(memory_format=torch.channels_last)
    with context:
        return held(block, x.requires_grad_())


def by_images(case: Case, policy: str | None) -> Held:
    """The same from one and from two images."""
    one, two = (measure(replace(case, batch=images), policy) for images in (1, 2))
    return Held(*(a + (case.batch - 1) * (b - a) for a, b in zip(one, two, strict=True)))


COUNTS: dict[str, Callable[[Held], int]] = {
    "with x": lambda h: h.all,
    "without x": lambda h: h.without_x,
    "in a row": lambda h: h.in_a_row,
}


@dataclass(frozen=True)
class Line:
    """One block at its case's batch."""

    case: Case
    eager: Held
    ours: dict[str, Held]  # by policy

    def of_eager(self, policy: str, count: str) -> float:
        return COUNTS[count](self.ours[policy]) / COUNTS[count](self.eager)

    @property
    def missed(self) -> list[str]:
        """The policies that hold more than their goal."""
        return [p for p, goal in GOALS.items() if self.of_eager(p, "without x") > goal]


def line(case: Case) -> Line:
    ours = {policy: by_images(case, policy) for policy in MEMORY_POLICIES}
    return Line(case, by_images(case, None), ours)


def table(lines: Sequence[Line]) -> Table:
    rows = []
    for one in lines:
        sizes = [one.eager.x, *(h.without_x for h in (one.eager, *one.ours.values()))]
        ratios = [one.of_eager(policy, count) for policy in one.ours for count in COUNTS]
        figures = [f"{size / 1e6:.2f}" for size in sizes] + [f"{ratio:.3f}" for ratio in ratios]
        rows.append([Cell(str(one.case).rsplit(maxsplit=1)[0]), *map(Cell, figures)])
    save, recompute = (
        [f"{policy}: {next(iter(COUNTS))}", *list(COUNTS)[1:]] for policy in MEMORY_POLICIES
    )
    header = ["MB", "x", "eager", *MEMORY_POLICIES, *save, *recompute]
    notes = [
        "MB without x; of eager: with x, without it, and in a row (with x, without z)",
        "goals, without x: " + ", ".join(f"{policy} {goal}" for policy, goal in GOALS.items()),
    ]
    batch = lines[0].case.batch
    title = f"held for the backward of residual blocks of ResNet-50, bfloat16, {batch} images of 224x224"
    return Table(title, header, rows, notes)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.block_memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--stage", type=int, nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--batch", type=int, default=IMAGENET_BATCH, metavar="N", help="images")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """0; 1 where a goal is missed."""
    options = parse(arguments)
    lines = [
        line(replace(imagenet(stage, projection), batch=options.batch))
        for stage in options.stage
        for projection in (True, False)
    ]
    show([table(lines)])
    missed = [f"{one.case}: {', '.join(one.missed)}" for one in lines if one.missed]
    print("\n".join(missed), end="\n" if missed else "")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
