"""What stands in the tables of a report: on the terminal, in report.md and in docs/performance.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_cuda.bench.results import (
    EQUAL,
    FASTER,
    SLOWER,
    Comparison,
    Row,
    Verdict,
    by_level_and_pass,
    comparisons,
    median_us,
)
from resnet_cuda.bench.roofline import Total, point, totals
from resnet_cuda.bench.tables import (
    BAD,
    GOOD,
    Cell,
    Table,
    format_bytes,
    format_rate,
    format_time,
    format_us,
    ratio_cell,
    three,
)
from resnet_cuda.bench.workload import ABSENT, OURS, SKIPPED

RATIO_NOTE = (
    "Ratios are a peer's time over ours, taken round by round: above 1 ours is faster. Means are geometric, over "
    f"(so many) workloads; within a factor of {EQUAL:g} two count as equal. Candidates in CUDA graphs are compared "
    "with each other."
)


class Messages:
    """Numbers what is to be said below a table; the same complaint about many workloads is one line."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], list[str]] = {}

    def mark(self, row: Row) -> Cell:
        key = (row["candidate"], row["status"], row["message"])
        workloads = self._found.setdefault(key, [])
        workloads.append(row["workload"])
        number = list(self._found).index(key) + 1
        return Cell(f"{row['status']} ({number})", BAD if row["ours"] else "")

    def lines(self) -> list[str]:
        return [
            f"({i}) {name}: {status}: {message or 'no message'}"
            + (f" [{len(workloads)} times]" if len(workloads) > 1 else "")
            for i, ((name, status, message), workloads) in enumerate(self._found.items(), 1)
        ]


def result_tables(data: Mapping[str, Any]) -> list[Table]:
    """One for each level and pass: a line for each of our candidates of each workload, a column for each peer."""
    groups = by_level_and_pass(comparisons(data))
    return [
        _result_table(f"{level}, {name}".removesuffix(", "), group)
        for (level, name), group in groups.items()
    ]


def _result_table(title: str, group: Sequence[Comparison]) -> Table:
    messages = Messages()
    skipped = [c for c in group if c.all_skipped]
    shown = [c for c in group if not c.all_skipped]
    peers = list(dict.fromkeys(p["candidate"] for c in shown for p in c.peers))
    nowhere = [
        name
        for name in peers
        if all(p["status"] == ABSENT for c in shown if (p := c.peer(name)) is not None)
    ]
    peers = [name for name in peers if name not in nowhere]
    throughput = any(row["images"] and c.level == "model" for c in shown for row in c.rows)
    memory = any(row["peak_memory"] for c in shown for row in c.ours)
    header = ["workload", "dtype", OURS, "of floor"]
    fold = len(header)
    header += ["images/s"] * throughput + ["memory"] * memory
    rows = []
    for comparison in shown:
        lines: list[Row | None] = [*comparison.ours] or [None]
        for i, mine in enumerate(lines):
            name = comparison.name if i == 0 else ""
            if mine and mine["candidate"] != OURS:
                name = f"{name}  {mine['candidate'].removeprefix(OURS).strip()}"
            line = [Cell(name), Cell(comparison.dtype if i == 0 else "")]
            line += _own_cells(mine, messages, throughput, memory)
            line += [
                _peer_cell(comparison, comparison.peer(peer), mine, messages) for peer in peers
            ]
            rows.append(line)
    for comparison in shown:
        for name in nowhere:
            if (row := comparison.peer(name)) is not None:
                messages.mark(row)
    notes = messages.lines()
    if skipped:
        reasons = dict.fromkeys(row["message"] for c in skipped for row in c.rows)
        names = ", ".join(f"{c.name} ({c.dtype})" for c in skipped)
        notes.append(f"{SKIPPED} ({'; '.join(reasons)}): {names}")
    return Table(title, [*header, *peers], rows, notes, fold=fold, prose=2)


def _own_cells(mine: Row | None, messages: Messages, throughput: bool, memory: bool) -> list[Cell]:
    cells = [Cell("-"), Cell("-")]
    images = used = ""
    if mine is not None and mine["timing"]:
        place = point(mine)
        cells = [Cell(format_time(mine)), Cell(f"{100 * place.fraction:.0f}%" if place else "-")]
        images = f"{three(mine['images'] / median_us(mine) * 1e6)}" if mine["images"] else ""
        used = format_bytes(mine["peak_memory"]) if mine["peak_memory"] else ""
    elif mine is not None:
        cells = [messages.mark(mine), Cell("-")]
    return [*cells, *[Cell(images or "-")] * throughput, *[Cell(used or "-")] * memory]


def _peer_cell(
    comparison: Comparison, peer: Row | None, mine: Row | None, messages: Messages
) -> Cell:
    if peer is None:
        return Cell("")
    if not peer["timing"]:
        return messages.mark(peer)
    ratio = comparison.speedup(peer, mine) if mine else None
    if ratio is None:
        return Cell(format_us(median_us(peer)))
    return ratio_cell(ratio, comparison.speedup_spread(peer, mine))


def totals_tables(data: Mapping[str, Any]) -> list[Table]:
    """All layers of a network together: a table for each network, level and dtype."""
    groups: dict[str, list[Total]] = {}
    for total in totals(data):
        title = f"all layers of {total.network}, {total.level}, {total.dtype}"
        groups.setdefault(title, []).append(total)
    return [_totals_table(title, group) for title, group in groups.items()]


def _totals_table(title: str, group: Sequence[Total]) -> Table:
    rows = []
    previous = ""
    for total in group:
        kind = f"{total.op} {total.pass_name}".strip()
        part = "" if total.layers == total.of else f" ({total.layers} of {total.of} layers)"
        rows.append(
            [
                Cell(kind if kind != previous else ""),
                Cell(total.candidate + part),
                Cell(format_us(total.us)),
                Cell(format_us(total.floor_us) if total.floor_us else "-"),
                Cell(f"{100 * total.floor_us / total.us:.0f}%" if total.floor_us else "-"),
                Cell("") if total.ratio is None else ratio_cell(total.ratio),
            ]
        )
        previous = kind
    return Table(title, ["pass", "candidate", "time", "floor", "of floor", "ratio"], rows, prose=2)


def verdict_table(found: Iterable[Verdict], every_peer: bool = True) -> Table:
    """A line for each level, pass and dtype: the verdict against the fastest peer, and the mean ratio to each; without
    `every_peer` to those that are in most lines."""
    groups: dict[tuple[str, str, str], dict[str, Verdict]] = {}
    for verdict in found:
        key = (verdict.level, verdict.pass_name, verdict.dtype)
        groups.setdefault(key, {})[verdict.peer] = verdict
    peers = list(dict.fromkeys(peer for group in groups.values() for peer in group if peer))
    if not every_peer:
        lines = list(groups.values())
        peers = [peer for peer in peers if 2 * sum(peer in line for line in lines) > len(lines)]
    rows = []
    for key, group in groups.items():
        best = group.get("")
        cells = [Cell(", ".join(key)), *_verdict_cells(best)]
        of = len(best.ratios) if best else 0
        rows.append([*cells, *(_mean_cell(group.get(peer), of) for peer in ["", *peers])])
    header = ["level, pass, dtype", "ours is", "workloads", "faster", "slower", "fastest peer"]
    return Table("is it faster?", [*header, *peers], rows, fold=5)


def _verdict_cells(best: Verdict | None) -> list[Cell]:
    if best is None:
        return [Cell("-")] * 4
    mood = {FASTER: GOOD, SLOWER: BAD}.get(best.word, "")
    return [
        Cell(best.word, mood),
        *(Cell(str(n)) for n in (len(best.ratios), best.faster, best.slower)),
    ]


def _mean_cell(verdict: Verdict | None, of: int) -> Cell:
    """With the number of workloads where it is another than the line's."""
    if verdict is None:
        return Cell("")
    cell = ratio_cell(verdict.mean)
    return cell if len(verdict.ratios) == of else Cell(f"{cell.text} ({len(verdict.ratios)})")


def roofline_table(data: Mapping[str, Any]) -> Table | None:
    """Our fastest candidate of each workload, and the fraction of the floor that the fastest peer reaches."""
    rows = []
    for (level, pass_name), group in by_level_and_pass(comparisons(data)).items():
        for comparison in group:
            ours = comparison.best_ours
            place = point(ours) if ours else None
            if place is None:
                continue
            peer = comparison.best_peer
            theirs = point(peer) if peer else None
            intensity = place.intensity
            share = place.memory_share
            bound = (
                place.bound if share in (0.0, 1.0) else f"{place.bound} ({100 * share:.0f}% memory)"
            )
            texts = [
                f"{level} {comparison.name}",
                pass_name,
                comparison.dtype,
                "-" if intensity is None else f"{intensity:.3g}",
                format_rate(place.flops_per_second, "FLOP/s") if intensity else "-",
                format_rate(place.bytes_per_second, "B/s") if place.bytes_per_second else "-",
                format_us(place.floor_us),
                f"{100 * place.fraction:.0f}%",
                f"{100 * theirs.fraction:.0f}%" if theirs else "-",
                bound,
            ]
            rows.append([Cell(text) for text in texts])
    header = ["workload", "pass", "dtype", "FLOP/byte", "FLOP/s", "bytes/s", "floor", "of floor"]
    header += ["fastest peer", "bound by"]
    return Table("roofline", header, rows, prose=3) if rows else None


def training_step_tables(data: Mapping[str, Any]) -> list[Table]:
    """Where a training step's time goes: a line for each kind of work, columns for each candidate."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in data.get("training_step") or []:
        title = f"a training step of {row['network']}, batch {row['batch']}, {row['dtype']}"
        groups.setdefault(title, []).append(row)
    return [_training_step_table(title, group) for title, group in groups.items()]


def _training_step_table(title: str, group: Sequence[Mapping[str, Any]]) -> Table:
    kinds = list(dict.fromkeys(part["kind"] for row in group for part in row["kinds"]))
    header = ["what", *(name for row in group for name in (row["candidate"], "share"))]
    lines = [
        ["the whole step", *(text for row in group for text in (format_us(row["wall_us"]), ""))]
    ]
    for kind in kinds:
        line = [kind]
        for row in group:
            part = next((p for p in row["kinds"] if p["kind"] == kind), None)
            line += ["", ""] if part is None else _part(part)
        lines.append(line)
    unprofiled = (f"{row['candidate']} {format_us(row['step_us'])}" for row in group)
    notes = [f"while profiled; without the profiler a step takes: {', '.join(unprofiled)}"]
    for row in group:
        if row["unrecognised"]:
            names = ", ".join(f"{u['name']} {format_us(u['us'])}" for u in row["unrecognised"])
            notes.append(f"unrecognised, {row['candidate']}: {names}")
    return Table(title, header, [[Cell(text) for text in line] for line in lines], notes)


def _part(part: Mapping[str, Any]) -> list[str]:
    return [format_us(part["us"]), f"{100 * part['share']:.0f}%"]


def traffic_table(data: Mapping[str, Any]) -> Table:
    """Bytes that networks move, counted on the emulator (section "traffic")."""
    rows = []
    for entry in data.get("traffic") or []:
        sizes = entry["bytes"]
        texts = [
            f"{entry['network']}, {entry['mode']}",
            f"n{entry['batch']}-{entry['image_size']}x{entry['image_size']}",
            entry["dtype"],
            *(format_bytes(sizes[name]) for name in ("ours", "eager", "minimum")),
        ]
        eager, least = sizes["eager"] / sizes["ours"], sizes["ours"] / sizes["minimum"]
        cells = [Cell(text) for text in texts]
        rows.append([*cells, ratio_cell(eager), Cell(f"{three(least)}x")])
    header = ["network", "images", "dtype", "ours", "eager", "minimum", "eager / ours"]
    return Table("bytes moved", [*header, "ours / minimum"], rows, prose=3)
