"""python -m tests.fuzz [--examples 2000] [--seed 0]: random calls against fp64, then random nonsense as arguments.

The first call that is wrong is made smaller and printed as a program that repeats it; the exit status is then 1."""

from __future__ import annotations

import argparse
import time
from collections import Counter

import torch

from tests.fuzz.blocks import programs
from tests.fuzz.nonsense import survive
from tests.fuzz.program import Program
from tests.fuzz.search import search

NONSENSE_AT_ONCE = 500  # calls of one process


def fuzz_calls(examples: int, seed: int) -> Counter[str]:
    """Judges that many calls on each backend; how many there were of each op."""
    seen: Counter[str] = Counter()
    start = time.monotonic()

    def judge(program: Program) -> None:
        program.check()
        seen[program.op] += 1
        if seen.total() % 100 == 0:
            print(
                f"{seen.total()} of {examples} calls are right, {time.monotonic() - start:.0f} s",
                flush=True,
            )

    search(programs(), judge, examples, seed)
    return seen


def fuzz_arguments(examples: int, seed: int) -> None:
    done = 0
    while done < examples:
        part = min(NONSENSE_AT_ONCE, examples - done)
        survive(["--examples", str(part), "--seed", str(seed + done)])
        done += part
        print(f"{done} of {examples} calls with wrong arguments ended well", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--examples", type=int, default=2000, help="calls of each kind (2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random calls (0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False
    try:
        seen = fuzz_calls(options.examples, options.seed)
        for name, count in sorted(seen.items()):
            print(f"{count:6} {name}")
        print(f"{seen.total()} calls agree with fp64, each on the CPU's backend and emulated")
        fuzz_arguments(options.examples, options.seed)
    except AssertionError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
