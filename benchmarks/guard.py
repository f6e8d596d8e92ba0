"""Compares bytes, spills, instantiations, what is compiled and ratios of this build with the committed baseline.

    python -m benchmarks.guard             exits 1, with the figures, where something is worse than its margin allows
    python -m benchmarks.guard --update    rewrites benchmarks/baseline.json; say in the commit why its figures changed

No absolute times: counters come from the emulator and are the same in every run, resources from the compiler, and
what is timed is a quotient of two things done in turn on the same machine. What cannot be measured here, because there
is no nvcc, say, is named and counted as not checked, never as passed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import guard_figures
from benchmarks.guard_figures import Figures
from resnet_cuda.bench.report import write_whole

BASELINE = Path(__file__).with_name("baseline.json")
SCHEMA = 1
UPDATE = "python -m benchmarks.guard --update"

# Metrics of which less is worse.
_GOOD = {"warps", "eager/ours"}
_NVCC = ("nvcc",)
# What a kernel that is not in the baseline yet must not have, either.
_NONE_AT_FIRST = {"spilled bytes", "local bytes"}
# Of whose figures each CPU has its own in the baseline.
_OF_THIS_CPU = {"ratios"}
# What a figure depends on besides the sources: compared only where it is the same as in the baseline's environment.
_DEPENDS = {
    ("launches", "shared wavefronts"): (
        "compiler",
    ),  # it shapes the accesses that are instrumented
    ("kernels", None): _NVCC,
    ("passes", None): _NVCC,
    ("build", None): ("nvcc", "architectures", "compiler"),
    ("ratios", None): ("cpu_capability", "torch"),
}


@dataclass
class Outcome:
    """Lines to print, and {why: figures} for what was not compared."""

    checked: int = 0
    worse: list[str] = field(default_factory=list)
    better: list[str] = field(default_factory=list)
    unchecked: Counter[str] = field(default_factory=Counter)

    def lines(self) -> Iterator[str]:
        yield from (f"WORSE   {line}" for line in self.worse)
        yield from (f"better  {line}" for line in self.better)
        yield from (f"not checked: {why} ({n} figures)" for why, n in self.unchecked.items())
        if self.better or self.worse or self.unchecked:
            yield ""
        if self.worse:
            yield f"If that is meant, run `{UPDATE}`, commit the file and explain its difference in the commit."
        elif self.better:
            yield f"Keep what is better: `{UPDATE}`, commit the file and explain its difference in the commit."
        yield (
            f"guard: {self.checked} figures checked, {len(self.worse)} worse, {len(self.better)} better, "
            f"{sum(self.unchecked.values())} not checked"
        )


def compare(baseline: Mapping[str, Any], measured: Figures, here: Mapping[str, Any]) -> Outcome:
    """`here` is the environment of `measured`."""
    outcome = Outcome()
    then = baseline["environment"]
    margins = baseline["margins"]
    for section, subjects in _union(baseline["figures"], measured):
        for subject, metrics in subjects:
            for metric, before, now in metrics:
                why = _incomparable(section, metric, then, here)
                if before is None and metric in _NONE_AT_FIRST:
                    before = 0
                if now is None:
                    why = why or f"{section}: no longer there: {subject}"
                    if section in _OF_THIS_CPU:
                        why = f"{section}: of another CPU: {subject}"
                    if section not in measured:
                        why = f"{section}: could not be measured here"
                    elif _of_other_architecture(section, subject, here):
                        why = f"{section}: this build is for {' and '.join(here['architectures'])} alone"
                elif before is None:
                    why = f"{section}: not in the baseline: {subject}; {UPDATE} adds it"
                if why or before is None or now is None:
                    outcome.unchecked[why] += 1
                    continue
                outcome.checked += 1
                verdict = _verdict(metric, before, now, margins[metric]["margin"])
                if verdict:
                    what = f"{subject}: {metric} {_change(before, now)}"
                    reason = (
                        f"; margin {margins[metric]['margin']:.0%}: {margins[metric]['reason']}"
                    )
                    getattr(outcome, verdict).append(what + (reason if verdict == "worse" else ""))
    return outcome


def _union(
    first: Figures, second: Figures
) -> Iterator[tuple[str, list[tuple[str, list[tuple[str, float | None, float | None]]]]]]:
    """(section, [(subject, [(metric, in first, in second)])]) of everything that either has."""

    def keys(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
        return list(dict.fromkeys([*a, *b]))

    for section in keys(first, second):
        left, right = first.get(section, {}), second.get(section, {})
        subjects = []
        for subject in keys(left, right):
            a, b = left.get(subject, {}), right.get(subject, {})
            subjects.append((subject, [(m, a.get(m), b.get(m)) for m in keys(a, b)]))
        yield section, subjects


def _incomparable(
    section: str, metric: str, then: Mapping[str, Any], here: Mapping[str, Any]
) -> str:
    for key in (*_DEPENDS.get((section, metric), ()), *_DEPENDS.get((section, None), ())):
        if then.get(key) != here[key]:
            return f"{section}: the baseline's {key} is {then.get(key)}, this one is {here[key]}"
    return ""


def _of_other_architecture(section: str, subject: str, here: Mapping[str, Any]) -> bool:
    return (
        section in ("kernels", "passes") and subject.rpartition(" ")[2] not in here["architectures"]
    )


def _verdict(metric: str, before: float, now: float, margin: float) -> str:
    """ "worse", "better" or "" where the margin covers the change."""
    growth = before - now if metric in _GOOD else now - before
    if growth > margin * before:
        return "worse"
    return "better" if growth < -margin * before else ""


def _change(before: float, now: float) -> str:
    percent = f", {now / before - 1:+.1%}" if before else ""
    return f"{before:g} -> {now:g} ({now - before:+g}{percent})"


def load(path: Path) -> dict[str, Any]:
    """Raises ValueError where the file is missing or of another version."""
    if not path.exists():
        raise ValueError(f"{path.name} is missing; {UPDATE} writes it")
    data: dict[str, Any] = json.loads(path.read_text())
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path.name}: schema is {data.get('schema')!r}; accepted: {SCHEMA}")
    return data


def updated(
    baseline: Mapping[str, Any], measured: Figures, here: Mapping[str, Any]
) -> dict[str, Any]:
    """The baseline with the new figures.

    Figures that differ by less than their margin keep their old value, so that small changes cannot add up unseen;
    sections that could not be measured here keep all of theirs.
    """
    old: Figures = baseline["figures"]
    then = baseline["environment"]
    kept = [section for section in old if section not in measured]
    figures: Figures = {}
    for section in (*measured, *kept):
        figures[section] = dict(old.get(section, {})) if section in _OF_THIS_CPU else {}
        for subject, metrics in measured.get(section, old.get(section, {})).items():
            figures[section][subject] = now = dict(metrics)
            for metric, before in old.get(section, {}).get(subject, {}).items():
                margin = baseline["margins"][metric]["margin"]
                same = not _incomparable(section, metric, then, here)
                if metric in now and same and not _verdict(metric, before, now[metric], margin):
                    now[metric] = before
    nvcc = {key: then.get(key) for key in ("nvcc", "architectures")} if "kernels" in kept else {}
    return {**baseline, "environment": {**here, **nvcc}, "figures": figures}


def dump(baseline: Mapping[str, Any]) -> str:
    """JSON with one line per subject, so that a difference can be read."""
    lines = ["{"]
    for key in ("schema", "about", "environment"):
        lines.append(f" {json.dumps(key)}: {json.dumps(baseline[key])},")
    for key in ("margins", "figures"):
        lines.append(f" {json.dumps(key)}: {{")
        lines += _indented(baseline[key], nested=key == "figures")
        lines.append(" }," if key == "margins" else " }")
    return "\n".join([*lines, "}"]) + "\n"


def _indented(entries: Mapping[str, Any], nested: bool) -> list[str]:
    lines = []
    for i, (key, value) in enumerate(entries.items()):
        comma = "," if i + 1 < len(entries) else ""
        if nested:
            lines.append(f"  {json.dumps(key)}: {{")
            lines += [f" {line}" for line in _indented(value, nested=False)]
            lines.append(f"  }}{comma}")
        else:
            lines.append(f"  {json.dumps(key)}: {json.dumps(value)}{comma}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.guard",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--update", action="store_true", help="rewrite the baseline with this build's figures"
    )
    parser.add_argument("--baseline", type=Path, default=BASELINE, help="default: %(default)s")
    options = parser.parse_args(arguments)
    start = time.monotonic()
    try:
        baseline = load(options.baseline)
        here = guard_figures.environment()
        measured, missing = guard_figures.figures()
    except (ValueError, RuntimeError) as error:
        print(f"guard: {error}", file=sys.stderr)
        return 2
    for line in missing:
        print(f"not checked: {line}")
    outcome = compare(baseline, measured, here)
    print("\n".join(outcome.lines()))
    print(f"{time.monotonic() - start:.0f} s")
    if not options.update:
        return 1 if outcome.worse else 0
    write_whole(options.baseline, dump(updated(baseline, measured, here)))
    kept = [name for name in baseline["figures"] if name not in measured]
    print(
        f"{options.baseline.name} rewritten" + (f"; kept as it was: {', '.join(kept)}" * bool(kept))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
