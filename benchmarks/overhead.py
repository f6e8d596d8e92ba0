"""Holds what a call costs before any arithmetic against its limits, on one thread of the CPU.

    python -m benchmarks.overhead                    exits 1 where something is above its limit
    python -m benchmarks.overhead conv_bn_relu ...   some ops and modules

Of an op counts what it takes beyond the torch calls that compute the same (microseconds; those calls alone take 5 to
90), of a module its time over that of the same modules in plain torch. Both are timed in turn, in short blocks, by
torch.utils.benchmark; the least of each is what the machine can do when nobody else wants it. What is above its limit
is timed again behind all others, up to _ATTEMPTS times: a machine that others slow down has better minutes.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.utils.benchmark import Timer

from resnet_cuda import ops
from resnet_cuda.bench.device import CpuDevice
from resnet_cuda.bench.levels import overhead

# Pass -> microseconds of an op beyond torch's calls; the backward is torch's own.
OP_LIMITS_US = {"inference": 4.0, "forward": 12.0}
MODULE_LIMIT = 1.5
# A block of calls is short, so that some of them are not interrupted on a busy machine.
_BLOCKS, _BLOCK_US = 100, 500.0
_ATTEMPTS, _PAUSE_S = 10, 5.0


class Measured(NamedTuple):
    """Least times of a call, in microseconds."""

    name: str
    pass_name: str
    ours: float
    torch_s: float

    @property
    def is_op(self) -> bool:
        return self.name in ops.__all__

    @property
    def holds(self) -> bool:
        if self.is_op:
            return self.ours - self.torch_s <= OP_LIMITS_US[self.pass_name]
        return self.ours <= MODULE_LIMIT * self.torch_s

    def line(self) -> str:
        limit = f"+{OP_LIMITS_US[self.pass_name]:.0f} us" if self.is_op else f"{MODULE_LIMIT}x"
        return (
            f"{'ok   ' if self.holds else 'ABOVE'} {self.name:24} {self.pass_name:9} {self.ours:7.1f} us, torch "
            f"{self.torch_s:6.1f}: {self.ours - self.torch_s:+.1f} us, {self.ours / self.torch_s:.2f}x (limit {limit})"
        )


def least(functions: list[Callable[[], object]], blocks: int = _BLOCKS) -> list[float]:
    """The shortest mean of a block of calls of each, in microseconds."""
    timers = [Timer("f()", globals={"f": function}) for function in functions]
    calls = []
    for timer in timers:
        once = min(timer.timeit(5).mean for _ in range(10)) * 1e6
        calls.append(max(1, round(_BLOCK_US / once)))
    pairs = list(zip(timers, calls, strict=True))
    rounds = [[timer.timeit(n).mean * 1e6 for timer, n in pairs] for _ in range(blocks)]
    return [min(of_one) for of_one in zip(*rounds, strict=True)]


def measured(names: list[str]) -> Iterator[Measured]:
    """Of every pass of these: as soon as it holds, or at the end of the last attempt."""
    passes = [(name, p) for name in names for p in OP_LIMITS_US if p in overhead.passes_of(name)]
    waiting = [attempts(name, pass_name) for name, pass_name in passes]
    for left in reversed(range(_ATTEMPTS)):
        above = []
        for one in waiting:
            found = next(one)
            if found.holds or not left:
                yield found
            else:
                above.append(one)
        if not above:
            return
        waiting = above
        time.sleep(_PAUSE_S)


def attempts(name: str, pass_name: str) -> Iterator[Measured]:
    """The least of all attempts so far, of ours and of torch's alike: one in which torch was slow helps nobody."""
    workload = overhead.tiny(CpuDevice(), name, pass_name, torch.float32)
    prepared = [candidate.prepare() for candidate in workload.candidates]
    found = Measured(name, pass_name, math.inf, math.inf)
    while True:
        ours, of_torch = least(prepared)
        found = found._replace(ours=min(ours, found.ours), torch_s=min(of_torch, found.torch_s))
        yield found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(overhead.NAMES))
    names = parser.parse_args(arguments).names or list(overhead.NAMES)
    if unknown := set(names) - set(overhead.NAMES):
        parser.error(f"no such op or module: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    above = 0
    for found in measured(names):
        print(found.line(), flush=True)
        above += not found.holds
    print(f"overhead: {above} above their limits")
    return 1 if above else 0


if __name__ == "__main__":
    raise SystemExit(main())
