"""Deletes every synchronisation statement of every kernel in turn: python -m tests.mutation [--sample N --seed S]

Checked mode must notice each deletion that redundant.py does not list, and none that it lists.
Needs the CMake target ``mutation``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from functools import partial

import torch

from tests.mutation.redundant import REDUNDANT, reason_of
from tests.mutation.statements import Mutant, all_mutants
from tests.mutation.trial import Trial, try_mutant


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, help="so many mutants, chosen by --seed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", default="", help="only files whose path contains this")
    parser.add_argument("--no-plain", action="store_true", help="checked libraries only")
    parser.add_argument("--list", action="store_true", help="show the mutants and stop")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args(arguments)

    mutants = [mutant for mutant in all_mutants() if options.file in mutant.file]
    if options.sample is not None and options.sample < len(mutants):
        mutants = sorted(
            random.Random(options.seed).sample(mutants, options.sample),
            key=lambda mutant: (mutant.file, mutant.line),
        )
    if options.list:
        print(*mutants, sep="\n")
        return 0

    start = time.monotonic()
    trials = []
    # Not a fork of this process: the children fork again, which threads would not survive.
    context = multiprocessing.get_context("spawn")
    with context.Pool(options.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        attempt = partial(try_mutant, with_plain=not options.no_plain)
        for trial in pool.imap(attempt, mutants):
            trials.append(trial)
            print(describe(trial), flush=True)
    return conclude(trials, time.monotonic() - start, complete=len(mutants) == len(all_mutants()))


def describe(trial: Trial) -> str:
    message = (trial.checked.message.strip().splitlines() or [""])[-1]
    plain = f", plain: {trial.plain.how}" if trial.plain else ""
    return f"{trial.mutant}\n    {trial.checked.how}{plain}: {message[:220]}"


def conclude(trials: list[Trial], seconds: float, complete: bool) -> int:
    """Prints the summary; returns the exit status."""
    faults = []
    for trial in trials:
        reason = reason_of(trial.mutant)
        if trial.checked.how in ("crashed", "hung"):
            faults.append(f"{trial.mutant}: {trial.checked.how}: {trial.checked.message}")
        elif not trial.checked.noticed and reason is None:
            faults.append(f"{trial.mutant}: not noticed, and not listed in redundant.py")
        elif trial.checked.noticed and reason is not None:
            faults.append(f"{trial.mutant}: listed as redundant ({reason}), but noticed")
    if complete:
        mutants = [trial.mutant for trial in trials]
        faults += [f"redundant.py lists what is not there: {e}" for e in stale_entries(mutants)]
    checked = sum(trial.checked.noticed for trial in trials)
    plain = sum(trial.plain is not None and trial.plain.noticed for trial in trials)
    redundant = sum(reason_of(trial.mutant) is not None for trial in trials)
    print(
        f"\n{len(trials)} deletions in {seconds:.0f} s: noticed by checked mode {checked}, "
        f"by plain results {plain}, redundant {redundant}, faults {len(faults)}"
    )
    print(*faults, sep="\n")
    return 1 if faults else 0


def stale_entries(mutants: list[Mutant]) -> list[str]:
    present = {(mutant.file, mutant.statement, mutant.occurrence) for mutant in mutants}
    return [
        f"{entry.file} {entry.statement}"
        for entry in REDUNDANT
        if (entry.file, entry.statement, entry.occurrence) not in present
    ]


if __name__ == "__main__":
    sys.exit(main())
