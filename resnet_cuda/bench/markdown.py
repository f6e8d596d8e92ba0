"""report.md: what a report says, in the order in which one wants to know it. Works on any part of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from resnet_cuda.bench.markdown_text import as_it_is, inline, table
from resnet_cuda.bench.report_tables import (
    RATIO_NOTE,
    result_tables,
    roofline_table,
    totals_tables,
    traffic_table,
    training_step_tables,
    verdict_table,
)
from resnet_cuda.bench.results import (
    EQUAL,
    FASTER,
    SLOWER,
    UNCLEAR,
    Verdict,
    absent,
    comparisons,
    complaints,
    is_dry,
    median_us,
    statuses,
    verdicts,
)
from resnet_cuda.bench.roofline import point
from resnet_cuda.bench.tables import (
    Cell,
    Table,
    format_bytes,
    format_rate,
    format_time,
    format_us,
)
from resnet_cuda.bench.workload import OK, SKIPPED

Data = Mapping[str, Any]
# Rendered by name; whatever else a report holds is written down as it is.
_TOP = ("schema", "kind", "started", "seconds", "finished", "stopped_by", "plans")
_CHECKS = ("correctness", "safety")
_MAX_LISTED = 30
_BUSY = 0.25  # CPUs
DRY_RUN = "A dry run on the emulator: no figure here says anything about speed."


def markdown(data: Data, pictures: Sequence[str] = ()) -> str:
    """`pictures`: names of the PNG files that lie beside the text."""
    environment = data.get("environment") or {}
    lines = [
        f"# {_title(data)}: {environment.get('name', 'unknown device')}",
        "",
        _status(data),
        "",
    ]
    if is_dry(data):
        lines += [f"**{DRY_RUN}**", ""]
    handled = {*_TOP}
    for heading, sections, write in _PARTS:
        handled |= set(sections)
        try:
            body = write(data)
        except Exception as error:  # one strange section must not cost the summary of the others
            body = [f"This could not be summarised ({type(error).__name__}: {inline(error)}):", ""]
            body += [line for name in sections for line in as_it_is({name: data.get(name)})]
        if body:
            lines += [f"## {heading}", "", *body, ""]
    for section, value in data.items():
        if section not in handled and value not in (None, [], {}):
            lines += [f"## {section.replace('_', ' ').capitalize()}", "", *as_it_is(value), ""]
    if pictures:
        lines += ["## Pictures", "", *(f"![{name}]({name})\n" for name in pictures)]
    return "\n".join(lines).rstrip() + "\n"


def _title(data: Data) -> str:
    return "Hardware run" if data.get("kind") == "hardware_run" else "Benchmarks"


def _status(data: Data) -> str:
    took = f"Started {data.get('started', 'at an unknown time')}, {data.get('seconds', 0):.0f} s"
    if data.get("finished"):
        return f"{took}, finished."
    if data.get("stopped_by"):
        return f"{took}, **cut off by {data['stopped_by']}**: what is here was measured, the rest is missing."
    return f"{took}, **not finished**: still running, or ended without a word."


# Sections.


def _verdicts(data: Data) -> list[str]:
    counts = statuses(data)
    lines = []
    if counts:
        said = ", ".join(f"{n} {status}" for status, n in counts.items())
        lines.append(f"- Results: {said}.")
    lines += [f"- {line}" for line in _checks_in_a_line(data)]
    wrong = complaints(data)
    if wrong:
        lines.append(f"- **Of ours, {len(wrong)} are wrong or failed:**")
        lines += [f"  - {inline(text)}" for text in wrong[:_MAX_LISTED]]
        if len(wrong) > _MAX_LISTED:
            lines.append(f"  - and {len(wrong) - _MAX_LISTED} more, in the tables below")
    elif counts:
        lines.append("- Nothing of ours is wrong or failed.")
    found = verdicts(data)
    lines += [f"- {sentence(verdict)}" for verdict in found if not verdict.peer]
    harness = harness_line(data)
    lines += [f"- {harness}"] if harness else []
    if found:
        lines += ["", *table(verdict_table(found)), "", RATIO_NOTE]
    return lines


def sentence(verdict: Verdict) -> str:
    """The verdict against the fastest peer of each workload, in words."""
    many = len(verdict.ratios)
    text = f"{verdict.level}, {verdict.pass_name}, {verdict.dtype}: {_versus_fastest(verdict)}"
    if many == 1:
        return f"{text} (1 workload: {verdict.worst[0]})."
    text += f" (mean of {many} workloads; faster in {verdict.faster}, slower in {verdict.slower}"
    if verdict.slower:
        name, ratio = verdict.worst
        text += f"; worst: {1 / ratio:.2f} times as long for {name}"
    return text + ")."


def _versus_fastest(verdict: Verdict) -> str:
    """Always in how many times as long the slower one takes: a ratio leaves open which way round it is."""
    if verdict.word == FASTER:
        return f"**faster** than the fastest peer, which takes {verdict.mean:.2f} times as long"
    if verdict.word == UNCLEAR:
        noise = f"within its noise of ±{100 * verdict.noise:.0f}%"
        return f"unclear, the fastest peer's time over ours is {verdict.mean:.2f}, {noise}"
    if verdict.word == SLOWER:
        return f"**slower** than the fastest peer, takes {1 / verdict.mean:.2f} times as long"
    return f"as fast as the fastest peer, within a factor of {EQUAL:g}"


def harness_line(data: Data) -> str:
    """The harness compared with itself; "" if it was not."""
    harness = data.get("harness")
    if not harness:
        return ""
    verdict = "holds" if harness["holds"] else "**does not hold: mistrust small differences**"
    return (
        f"The harness against itself: {100 * abs(harness['ratio_of_medians'] - 1):.1f}% apart by medians, "
        f"{100 * abs(harness['paired_ratio'] - 1):.1f}% round by round, of {100 * harness['margin']:.0f}% allowed: "
        f"{verdict}; a function that does nothing takes {format_us(harness['nothing_us'])}.{_busy(data)}"
    )


def _busy(data: Data) -> str:
    """Threads that wait for one whose core is taken wait for time slices: then even ratios are of those."""
    clocks = [(row.get("facts") or {}).get("clocks") or {} for row in data.get("results", [])]
    others = [c["others_cpus"] for c in clocks if "others_cpus" in c]
    busy = sum(cpus > _BUSY for cpus in others)
    if not busy:
        return ""
    return (
        f" **Other processes used more than {_BUSY:g} CPUs during {busy} of {len(others)} results: mistrust what ran "
        "on several threads.**"
    )


def _checks_in_a_line(data: Data) -> list[str]:
    lines = []
    for backend, counts in (data.get("probes") or {}).items():
        lines.append(f"Probes, {backend}: {_counted(counts)}.")
    for section in _CHECKS:
        if rows := data.get(section):
            counts = _by_status(rows)
            mark = "" if set(counts) <= {OK, SKIPPED} else "**"
            lines.append(f"{section.capitalize()}: {mark}{_counted(counts)}{mark}.")
    return lines


def _counted(counts: Any) -> str:
    if not isinstance(counts, Mapping):
        return inline(counts)
    return ", ".join(f"{inline(n)} {inline(what)}" for what, n in counts.items())


def _by_status(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    return counts


def _device(data: Data) -> list[str]:
    return as_it_is(data.get("environment") or {})


def ceilings(data: Data) -> list[str]:
    found = data.get("ceilings")
    if not found:
        return []
    details = found.get("details") or {}
    rows = []
    if copy := details.get("copy"):
        what = f"copy of {format_bytes(copy['bytes'] / 2)}, read and written"
        rows.append((what, format_rate(found["bandwidth"], "B/s"), copy))
    else:
        rows.append(("copy, read and written", format_rate(found["bandwidth"], "B/s"), None))
    products = {(row["dtype"], row["flops"]): row for row in details.get("matmul", [])}
    for dtype, flops in found["flops"].items():
        row = products.get((dtype, flops))
        size = f", {row['edge']} x {row['edge']}" if row else ""
        rows.append((f"matrix product, {dtype}{size}", format_rate(flops, "FLOP/s"), row))
    cells = [
        [Cell(what), Cell(rate), Cell(format_time({"timing": row}) if row else "-")]
        for what, rate, row in rows
    ]
    return table(Table("", ["ceiling", "rate", "median time"], cells))


def _stages(data: Data) -> list[str]:
    rows = [
        [
            Cell(stage["name"]),
            Cell(stage["status"]),
            Cell(f"{stage.get('seconds') or 0:.1f}"),
            Cell(stage.get("message") or ""),
        ]
        for stage in data.get("stages") or []
    ]
    return (
        table(Table("", ["stage", "status", "seconds", "message"], rows, prose=4)) if rows else []
    )


def _probes(data: Data) -> list[str]:
    return [
        f"- {backend}: {_counted(counts)}" for backend, counts in (data.get("probes") or {}).items()
    ]


def _checks(section: str) -> Callable[[Data], list[str]]:
    def write(data: Data) -> list[str]:
        rows = data.get(section) or []
        if not rows:
            return []
        lines = [f"{_counted(_by_status(rows))}.", ""]
        remarkable = [row for row in rows if row["status"] != OK]
        cells = [
            [Cell(row["name"]), Cell(row["status"]), Cell(row.get("message") or "")]
            for row in remarkable
        ]
        if cells:
            lines += table(Table("", ["what", "status", "message"], cells, prose=3))
        return lines

    return write


def _totals(data: Data) -> list[str]:
    lines = _titled(totals_tables(data))
    note = "The sum over a network's distinct layers of how often it has each, times the median. "
    return [*lines, note + "Ratios are over the layers that both have a time for."] if lines else []


def _training_step(data: Data) -> list[str]:
    return _titled(training_step_tables(data))


def _traffic(data: Data) -> list[str]:
    return table(traffic_table(data)) if data.get("traffic") else []


def _titled(tables: Iterable[Table]) -> list[str]:
    lines: list[str] = []
    for each in tables:
        lines += [f"### {each.title}", "", *table(each), ""]
        lines += [f"- {inline(note)}" for note in each.notes]
        lines += [""] * bool(each.notes)
    return lines


def _results(data: Data) -> list[str]:
    lines = _titled(result_tables(data))
    note = f"±: half the interquartile range, of {rounds(data)}. Under a peer: its time over ours."
    return [*lines, note] if lines else []


def rounds(data: Data) -> str:
    """How often what has a time was measured."""
    found = sorted({row["timing"]["rounds"] for row in data.get("results", []) if row["timing"]})
    if len(found) < 2:
        return f"{found[0] if found else 'no'} rounds"
    return f"{found[0]} to {found[-1]} rounds"


def _candidates(data: Data) -> list[str]:
    """Models: every candidate's own figures."""
    rows = []
    for comparison in comparisons(data):
        if comparison.level != "model":
            continue
        for i, row in enumerate(row for row in comparison.rows if row["timing"]):
            title = f"{comparison.name}, {comparison.pass_name}, {comparison.dtype}"
            place = point(row)
            first = row.get("first_call_seconds")
            memory = row.get("peak_memory")
            rate = row["images"] / median_us(row) * 1e6 if row["images"] else None
            rows.append(
                [
                    Cell(title if i == 0 else ""),
                    Cell(row["candidate"]),
                    Cell(format_time(row)),
                    Cell("-" if rate is None else f"{rate:.4g}"),
                    Cell(format_bytes(memory) if memory else "-"),
                    Cell(f"{100 * place.fraction:.0f}%" if place else "-"),
                    Cell("-" if first is None else f"{first:.2f}"),
                ]
            )
    header = ["model", "candidate", "time", "images/s", "peak memory", "of floor", "first call, s"]
    return table(Table("", header, rows, prose=2)) if rows else []


def _roofline(data: Data) -> list[str]:
    found = roofline_table(data)
    return [] if found is None else table(found)


def _absent(data: Data) -> list[str]:
    here = [f"{p['name']} {p['version']}" for p in data.get("peers") or [] if not p["absent"]]
    lines = [f"Here: {', '.join(here)}.", ""] if here else []
    return lines + [f"- {name}: {inline(reason)}" for name, reason in absent(data).items()]


def _notes(data: Data) -> list[str]:
    return [f"- {inline(note)}" for note in data.get("notes") or []]


def _left_out(data: Data) -> list[str]:
    left: dict[str, list[str]] = {}
    for comparison in comparisons(data):
        for row in comparison.rows:
            if row["status"] == SKIPPED:
                left.setdefault(f"{comparison.title}: {row['message']}", []).append(
                    row["candidate"]
                )
    return [f"- {inline(title)}: {', '.join(names)}" for title, names in left.items()]


_PARTS: Sequence[tuple[str, Sequence[str], Callable[[Data], list[str]]]] = (
    ("Verdicts", ("harness",), _verdicts),
    ("Device", ("environment",), _device),
    ("Ceilings", ("ceilings",), ceilings),
    ("Stages", ("stages",), _stages),
    ("Probes", ("probes",), _probes),
    ("Correctness", ("correctness",), _checks("correctness")),
    ("Safety", ("safety",), _checks("safety")),
    ("All layers of a network", (), _totals),
    ("Results", ("results",), _results),
    ("Models in detail", (), _candidates),
    ("Where a training step's time goes", ("training_step",), _training_step),
    ("Roofline", (), _roofline),
    ("Traffic", ("traffic",), _traffic),
    ("Peers outside torch", ("peers",), _absent),
    ("Notes", ("notes",), _notes),
    ("Left out for lack of time", (), _left_out),
)
