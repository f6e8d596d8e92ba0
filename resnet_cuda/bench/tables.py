"""Tables of a report's results, and how they are drawn on a terminal of any width.

report.md and docs/performance.md are made of the same tables (markdown.py).
"""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TextIO

from resnet_cuda.bench.results import (
    EQUAL,
    Comparison,
    Row,
    Verdict,
    by_level_and_pass,
    comparisons,
    median_us,
    spread,
)
from resnet_cuda.bench.roofline import point, totals
from resnet_cuda.bench.workload import ABSENT, OURS, SKIPPED

GOOD, BAD = "good", "bad"
_STYLES = {GOOD: "green", BAD: "red", "": ""}
_GAP = 2  # columns between columns
_MIN_WRAPPED = 14  # columns of a wrapped cell, at least
_FOLDED = "more"  # header of stacked columns


class Cell(NamedTuple):
    """What stands in a table, and whether it is good or bad news for us."""

    text: str
    mood: str = ""


@dataclass(frozen=True)
class Table:
    """The first column is prose and may wrap; columns from `fold` on may be stacked into one where there is no room."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    notes: Sequence[str] = ()
    fold: int | None = None
    prose: int = 1  # so many columns are aligned left


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


def format_us(us: float) -> str:
    """Three digits in the unit that fits."""
    for limit, factor, unit in (
        (999.5, 1.0, "us"),
        (999.5e3, 1e-3, "ms"),
        (float("inf"), 1e-6, "s"),
    ):
        if us < limit:
            return f"{_three(us * factor)} {unit}"
    raise ValueError(f"us is {us}; accepted: numbers")


def format_rate(per_second: float, unit: str) -> str:
    for limit, factor, prefix in ((1e6, 1e-3, "k"), (1e9, 1e-6, "M"), (1e12, 1e-9, "G")):
        if per_second < limit:
            return f"{_three(per_second * factor)} {prefix}{unit}"
    return f"{_three(per_second * 1e-12)} T{unit}"


def format_bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def _three(value: float) -> str:
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def format_time(row: Row) -> str:
    return f"{format_us(median_us(row))} ±{100 * spread(row):.0f}%"


def ratio_cell(ratio: float) -> Cell:
    mood = GOOD if ratio > EQUAL else BAD if ratio < 1 / EQUAL else ""
    return Cell(f"{_three(ratio)}x", mood)


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
            name = comparison.workload if i == 0 else ""
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
        names = ", ".join(f"{c.workload} ({c.dtype})" for c in skipped)
        notes.append(f"{SKIPPED} ({'; '.join(reasons)}): {names}")
    return Table(title, [*header, *peers], rows, notes, fold=fold, prose=2)


def _own_cells(mine: Row | None, messages: Messages, throughput: bool, memory: bool) -> list[Cell]:
    cells = [Cell("-"), Cell("-")]
    images = used = ""
    if mine is not None and mine["timing"]:
        place = point(mine)
        cells = [Cell(format_time(mine)), Cell(f"{100 * place.fraction:.0f}%" if place else "-")]
        images = f"{_three(mine['images'] / median_us(mine) * 1e6)}" if mine["images"] else ""
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
    return ratio_cell(ratio) if ratio is not None else Cell(format_us(median_us(peer)))


def totals_table(data: Mapping[str, Any]) -> Table | None:
    """All layers of a network; None where the report has no layers of one."""
    found = totals(data)
    if not found:
        return None
    rows = []
    previous = ""
    for total in found:
        kind = f"{total.op} {total.pass_name}".strip()
        name = f"{total.network}, {total.level}, {kind}, {total.dtype}"
        rows.append(
            [
                Cell(name if name != previous else ""),
                Cell(total.candidate),
                Cell(f"{total.layers} of {total.of}"),
                Cell(format_us(total.us)),
                Cell(format_us(total.floor_us) if total.floor_us else "-"),
                Cell(f"{100 * total.floor_us / total.us:.0f}%" if total.floor_us else "-"),
                Cell("") if total.ratio is None else ratio_cell(total.ratio),
            ]
        )
        previous = name
    header = ["all layers of", "candidate", "layers", "time", "floor", "of floor", "ratio"]
    return Table("totals per network", header, rows, prose=2)


def verdict_table(found: Iterable[Verdict]) -> Table:
    header = ["level", "pass", "dtype", "against", "mean ratio", "workloads", "faster", "slower"]
    rows = [
        [
            Cell(text)
            for text in (
                v.level,
                v.pass_name,
                v.dtype,
                v.peer or "the fastest peer",
                f"{v.mean:.2f}x",
                str(len(v.ratios)),
                str(v.faster),
                str(v.slower),
            )
        ]
        for v in found
    ]
    return Table("ours against peers", header, rows, prose=4)


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
                f"{level} {comparison.workload}",
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


# Drawing.


def folded(table: Table) -> Table:
    """The columns from `fold` on as one, a line for each that says something."""
    if table.fold is None or table.fold >= len(table.header):
        return table
    start = table.fold
    names = table.header[start:]
    rows = []
    for row in table.rows:
        said = [(c.text, n) for c, n in zip(row[start:], names, strict=True) if c.text]
        width = max((len(text) for text, _ in said), default=0)
        lines = "\n".join(f"{text:>{width}} {name}" for text, name in said)
        rows.append([*row[:start], Cell(lines)])
    return replace(table, header=[*table.header[:start], _FOLDED], rows=rows, fold=None)


def fit(table: Table, width: int) -> Table:
    """As it is where it fits, else folded, with the first column wrapped as far as needed."""
    fold = len(table.header) if table.fold is None else table.fold
    header = [*table.header[:fold], *(name.replace(" ", "\n") for name in table.header[fold:])]
    wide = replace(table, header=header)
    if natural_width(wide) <= width:
        return wide
    table = folded(table)
    first, last = 0, len(table.header) - 1
    table = _wrapped(table, first, width)
    return _wrapped(table, last, width) if table.header[last] == _FOLDED else table


def _wrapped(table: Table, column: int, width: int) -> Table:
    """With a column made as narrow as the table's width asks for, but no narrower than is legible."""
    spare = width - natural_width(table) + _widths(table)[column]
    room = max(spare, _MIN_WRAPPED)
    rows = []
    for row in table.rows:
        cell = row[column]
        lines = [_wrap(line, room) for line in cell.text.split("\n")]
        rows.append([*row[:column], Cell("\n".join(lines), cell.mood), *row[column + 1 :]])
    return replace(table, rows=rows)


def _wrap(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return "\n".join(textwrap.wrap(text, width, subsequent_indent="  "))


def _widths(table: Table) -> list[int]:
    columns = zip(table.header, *([c.text for c in row] for row in table.rows), strict=True)
    return [max(len(line) for text in column for line in text.split("\n")) for column in columns]


def natural_width(table: Table) -> int:
    return sum(_widths(table)) + _GAP * (len(table.header) - 1)


def plain(table: Table) -> str:
    """Text without colours; call `fit` first."""
    widths = _widths(table)
    lines = [table.title, *_plain_row(table.header, widths, table)]
    lines.append((" " * _GAP).join("-" * w for w in widths))
    for row in table.rows:
        lines += _plain_row([cell.text for cell in row], widths, table)
    return "\n".join(line.rstrip() for line in lines)


def _plain_row(texts: Sequence[str], widths: Sequence[int], table: Table) -> list[str]:
    cells = [text.split("\n") for text in texts]
    height = max(len(cell) for cell in cells)
    lines = []
    for i in range(height):
        parts = []
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            text = cell[i] if i < len(cell) else ""
            left = column < table.prose or table.header[column] == _FOLDED
            parts.append(text.ljust(width) if left else text.rjust(width))
        lines.append((" " * _GAP).join(parts))
    return lines


def show(tables: Iterable[Table], stream: TextIO | None = None, width: int | None = None) -> None:
    """Prints tables: by rich where it is installed and the stream is a terminal, else as plain text."""
    stream = stream or sys.stdout
    width = width or shutil.get_terminal_size().columns
    try:
        from rich.console import Console
    except ImportError:
        console = None
    else:
        console = Console(file=stream, width=width, highlight=False)
    for table in tables:
        fitted = fit(table, width)
        if console is not None and console.is_terminal and natural_width(fitted) <= width:
            _show_rich(console, fitted)
        else:
            print(plain(fitted), file=stream)
        for note in table.notes:
            print(textwrap.fill(note, width, subsequent_indent="    "), file=stream)
        print(file=stream)


def _show_rich(console: Any, table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    # Gaps of _GAP columns and no frame: as wide as `natural_width` says.
    drawn = RichTable(
        title=Text(table.title, "bold"), title_justify="left", box=None, padding=(0, _GAP, 0, 0)
    )
    drawn.pad_edge = False
    for column, name in enumerate(table.header):
        left = column < table.prose or name == _FOLDED
        drawn.add_column(Text(name), justify="left" if left else "right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(cell.text, _STYLES[cell.mood]) for cell in row))
    console.print(drawn)
