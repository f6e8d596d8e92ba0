"""What docs/performance.md and docs/hardware-status.md say, given the reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from resnet_cuda.bench.markdown import ceilings, harness_line, rounds, sentence
from resnet_cuda.bench.markdown_text import inline, table
from resnet_cuda.bench.report_tables import (
    RATIO_NOTE,
    result_tables,
    roofline_table,
    totals_tables,
    traffic_table,
    training_step_tables,
    verdict_table,
)
from resnet_cuda.bench.results import statuses, verdicts
from resnet_cuda.bench.tables import Table
from resnet_cuda.bench.workload import FAILED, LEVELS, OK, WRONG

PERFORMANCE = "docs/performance.md"
HARDWARE_STATUS = "docs/hardware-status.md"
NOT_YET = "not yet"
_PICTURES = ("speedup.png", "roofline.png")  # that say at a glance what the tables say
BEGIN = "<!-- the last column is written by python -m benchmarks.performance -->"
END = "<!-- end -->"

# Which kernels an op's checks run, forward and backward.
KERNELS_OF_OPS = {
    "conv_bn_relu": (
        "conv_fprop conv_dgrad conv_wgrad bn_statistics bn_finalize bn_apply "
        "bn_backward_reduce bn_backward_finalize bn_backward_apply"
    ),
    "conv_bn_relu_max_pool2d": "conv_max_pool",
    "bn_relu": (
        "bn_statistics bn_finalize bn_apply bn_backward_reduce bn_backward_finalize "
        "bn_backward_apply"
    ),
    "bottleneck_reduce": "bottleneck_reduce",
    "bottleneck_expand": "bottleneck_expand",
    "add_relu": "add_relu_forward add_relu_backward",
    "max_pool2d": "max_pool_forward max_pool_backward",
    "global_avg_pool": "global_avg_pool_forward global_avg_pool_backward",
}


class Stored(NamedTuple):
    """A report, and its folder relative to the repository's root."""

    folder: str
    data: Mapping[str, Any]
    pictures: Sequence[str] = ()  # names of files in the folder

    @property
    def device(self) -> str:
        return str(self.data["environment"]["name"])

    @property
    def is_gpu(self) -> bool:
        return self.data["environment"]["kind"] == "cuda"

    @property
    def is_complete(self) -> bool:
        """Whether it came to its end, and left nothing out on request."""
        plans = self.data.get("plans") or []
        partial = any(plan.get("first_layers") or plan.get("only") for plan in plans)
        return bool(self.data["finished"]) and not partial

    @property
    def scope(self) -> str:
        """What it covers, and how thoroughly."""
        plans = self.data.get("plans") or []
        parts = [rounds(self.data)] if self.data["results"] else []
        for plan in plans[:1]:  # those of a hardware run differ in their levels
            parts.insert(
                0, f"{', '.join(plan['networks'])}, n{plan['batch']}, {plan['image_size']} pixels"
            )
        layers = {p["first_layers"] for p in plans if p.get("first_layers")}
        parts += [f"**quick: the first {n} layers of each kind only**" for n in sorted(layers)]
        if any(plan.get("only") for plan in plans):
            parts.append("**a selection of workloads**")
        if not self.data["finished"]:
            parts.append(f"**cut off by {self.data['stopped_by']}**")
        return "; ".join(parts) or "-"

    @property
    def date(self) -> str:
        return str(self.data["started"]).partition(" ")[0]

    @property
    def commit(self) -> str:
        return self.folder.rpartition("/")[2]

    def link(self, text: str = "") -> str:
        """From a document in docs/."""
        return f"[{text or self.folder}](../{self.folder}/report.md)"


def performance(reports: Sequence[Stored]) -> str:
    """docs/performance.md. `reports`: the newest first."""
    lines = [
        "# Performance",
        "",
        "Written by `python -m benchmarks.performance` from the reports in "
        "[benchmarks/results](../benchmarks/results): every figure here is in the report named beside it. How it is "
        "measured: [benchmarks.md](benchmarks.md).",
        "",
    ]
    if not any(stored.is_gpu for stored in reports):
        lines += ["## On a GPU", "", "Not run: there is no report of a GPU.", ""]
    devices = dict.fromkeys(s.device for s in sorted(reports, key=lambda s: not s.is_gpu))
    for device in devices:
        lines += [f"## {inline(device)}", "", *_device([s for s in reports if s.device == device])]
    if reports:
        lines += ["## How to read the tables", "", RATIO_NOTE, ""]
    return "\n".join(lines).rstrip() + "\n"


def _device(reports: Sequence[Stored]) -> Iterator[str]:
    """A device's reports, the newest first: each level from the newest complete one that has it, else from the newest
    that has it at all."""
    yield from ("| report | date | torch | scope | results |", "|---|---|---|---|---|")
    for stored in reports:
        counts = ", ".join(f"{n} {status}" for status, n in statuses(stored.data).items())
        versions = stored.data["environment"].get("versions") or {}
        cells = (stored.date, versions.get("torch") or "-", stored.scope, counts or "-")
        yield f"| {stored.link()} | {' | '.join(cells)} |"
    yield ""
    reports = sorted(reports, key=lambda stored: not stored.is_complete)
    for picture in _PICTURES:
        newest = next((s for s in reports if picture in s.pictures), None)
        if newest is not None:
            yield from (f"![{picture} of {newest.folder}](../{newest.folder}/{picture})", "")
    for level in LEVELS:
        newest = next((s for s in reports if _has_level(s, level)), None)
        if newest is not None:
            yield from _level(level, newest)
    for section, write in _SECTIONS.items():
        newest = next((s for s in reports if s.data.get(section)), None)
        if newest is not None:
            yield from (
                f"### {section.replace('_', ' ').capitalize()}",
                "",
                f"From {newest.link()}.",
                "",
            )
            yield from (*write(newest.data), "")


def _has_level(stored: Stored, level: str) -> bool:
    return any(r["level"] == level and r["timing"] for r in stored.data["results"])


def _level(level: str, stored: Stored) -> Iterator[str]:
    only = {**stored.data, "results": [r for r in stored.data["results"] if r["level"] == level]}
    yield from (f"### {level.capitalize()}", "", f"From {stored.link()}: {stored.scope}.", "")
    found = verdicts(only)
    sentences = [f"- {sentence(verdict)}" for verdict in found if not verdict.peer]
    if sentences:
        yield from (*sentences, "")
    tables: list[Table | None] = [verdict_table(found) if found else None]
    tables += [*totals_tables(only), *result_tables(only), roofline_table(only)]
    yield from _titled(each for each in tables if each is not None)


def _titled(tables: Iterable[Table]) -> Iterator[str]:
    for each in tables:
        title = each.title[:1].upper() + each.title[1:]
        yield from (f"**{title}**", "", *table(each), "")
        yield from (f"- {inline(note)}" for note in each.notes)
        yield from [""] * bool(each.notes)


def _harness(data: Mapping[str, Any]) -> list[str]:
    return [harness_line(data)]


def _training_step(data: Mapping[str, Any]) -> list[str]:
    return list(_titled(training_step_tables(data)))


def _traffic(data: Mapping[str, Any]) -> list[str]:
    return list(_titled([traffic_table(data)]))


_SECTIONS = {
    "training_step": _training_step,
    "traffic": _traffic,
    "ceilings": ceilings,
    "harness": _harness,
}


# docs/hardware-status.md


def hardware_status(document: str, reports: Sequence[Stored]) -> str:
    """The document with the last column of its table as the GPUs' reports say; the other columns are kept.

    Raises:
        ValueError: the table is not between its markers.
    """
    if document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"{HARDWARE_STATUS}: put its table between {BEGIN!r} and {END!r}")
    before, _, rest = document.partition(BEGIN)
    inside, _, after = rest.partition(END)
    gpus = [stored for stored in reports if stored.is_gpu]
    lines = []
    rows = 0
    for line in inside.strip().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and not line.startswith("|---"):
            rows += 1
            if rows > 1:  # the first is the header
                cells[-1] = _run_on(cells[0], gpus)
                line = "| " + " | ".join(cells) + " |"
        lines.append(line)
    return "\n".join([before + BEGIN, "", *lines, "", END + after])


def _run_on(what: str, gpus: Sequence[Stored]) -> str:
    """For each GPU the newest report that checked it."""
    said: dict[str, str] = {}
    for stored in gpus:
        counts = _checks_of(what, stored.data)
        if stored.device not in said and counts:
            verdict = ", ".join(f"{n} {status}" for status, n in sorted(counts.items()))
            if counts.get(WRONG) or counts.get(FAILED):
                verdict = f"**{verdict}**"
            text = f"{stored.date}, {stored.device}, {stored.commit}"
            said[stored.device] = f"{stored.link(inline(text))}: {verdict}"
    return "; ".join(said.values()) or NOT_YET


def _checks_of(what: str, data: Mapping[str, Any]) -> dict[str, int]:
    """{status: how many} of the checks that a row of the table is about."""
    counts: dict[str, int] = {}
    if what.startswith("probes"):
        found = (data.get("probes") or {}).get("cuda") or {}
        return {status: n for status, n in found.items() if n}
    names = set(re.findall(r"[a-z]\w*_\w+", what))
    for status in _statuses(what, names, data):
        counts[status] = counts.get(status, 0) + 1
    return counts if counts.get(OK) or counts.get(WRONG) or counts.get(FAILED) else {}


def _statuses(what: str, names: set[str], data: Mapping[str, Any]) -> Iterator[str]:
    if what.startswith("binding"):
        yield from (row["status"] for row in data.get("safety") or [])
        return
    for row in data.get("correctness") or []:
        if row.get("stage") != "probes" and any(runs(row["name"], kernel) for kernel in names):
            yield row["status"]
    for row in data.get("results") or []:
        if row["level"] == "kernel" and row["ours"] and row["pass_name"] in names:
            yield row["status"]


def runs(check: str, kernel: str) -> bool:
    """Whether a check of this name runs the kernel: it names it, perhaps with a dtype behind it, or an op that runs
    it."""
    words = re.findall(r"[a-z]\w+", check)
    ops = [op for op, kernels in KERNELS_OF_OPS.items() if kernel in kernels.split()]
    named = any(word == kernel or word.startswith(f"{kernel}_") for word in words)
    return named or kernel.replace("_", " ") in check or any(op in words for op in ops)
