"""Tables, and how they are drawn on a terminal of any width. What stands in a report's tables: report_tables.py."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TextIO

from resnet_cuda.bench.results import EQUAL, Row, median_us, spread

GOOD, BAD = "good", "bad"
_STYLES = {GOOD: "green", BAD: "red", "": ""}
_WITHOUT_A_TERMINAL = (120, 24)  # columns and lines of a log
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


def format_us(us: float) -> str:
    """Three digits in the unit that fits."""
    for limit, factor, unit in (
        (999.5, 1.0, "us"),
        (999.5e3, 1e-3, "ms"),
        (float("inf"), 1e-6, "s"),
    ):
        if us < limit:
            return f"{three(us * factor)} {unit}"
    raise ValueError(f"us is {us}; accepted: numbers")


def format_rate(per_second: float, unit: str) -> str:
    for limit, factor, prefix in ((1e6, 1e-3, "k"), (1e9, 1e-6, "M"), (1e12, 1e-9, "G")):
        if per_second < limit:
            return f"{three(per_second * factor)} {prefix}{unit}"
    return f"{three(per_second * 1e-12)} T{unit}"


def format_bytes(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 0.1 * 2**30 else f"{size / 2**20:.1f} MiB"


def three(value: float) -> str:
    """Three digits."""
    return (
        f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
    )


def format_time(row: Row) -> str:
    return f"{format_us(median_us(row))} ±{100 * spread(row):.0f}%"


def ratio_cell(ratio: float, spread: float | None = None) -> Cell:
    """A peer's time over ours, with the spread of the rounds' ratios where it is known."""
    mood = GOOD if ratio > EQUAL else BAD if ratio < 1 / EQUAL else ""
    return Cell(f"{three(ratio)}x{'' if spread is None else f' ±{100 * spread:.0f}%'}", mood)


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
    width = width or shutil.get_terminal_size(_WITHOUT_A_TERMINAL).columns
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
