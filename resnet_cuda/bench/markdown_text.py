"""Markdown from tables and from plain JSON values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from resnet_cuda.bench.tables import Cell, Table


def table(given: Table) -> list[str]:
    lines = [row_line(given.header)]
    aligned = ["---" if i < given.prose else "---:" for i in range(len(given.header))]
    lines.append("|" + "|".join(aligned) + "|")
    return lines + [row_line([cell.text for cell in row]) for row in given.rows]


def row_line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(inline(text) for text in texts) + " |"


def inline(value: Any) -> str:
    """On one line, and without what Markdown takes for the end of a cell or for HTML."""
    return _words(value).replace("|", "\\|").replace("<", "&lt;")


def _words(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())


def as_it_is(value: Any, indent: str = "") -> list[str]:
    """Any JSON value: lists of objects as a table, the rest as nested lists."""
    if isinstance(value, list) and value and all(isinstance(v, Mapping) for v in value):
        header = list(dict.fromkeys(key for row in value for key in row))
        if not indent and not any(
            isinstance(v, (Mapping, list)) for r in value for v in r.values()
        ):
            rows = [[Cell(_words(row.get(key, ""))) for key in header] for row in value]
            return table(Table("", header, rows))
    if isinstance(value, (Mapping, list)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value, 1)
        lines = []
        for key, inner in items:
            if isinstance(inner, (Mapping, list)) and inner:
                flat = _flat(inner)
                if flat is not None:
                    lines.append(f"{indent}- {inline(key)}: {flat}")
                else:
                    lines += [f"{indent}- {inline(key)}:", *as_it_is(inner, indent + "  ")]
            else:
                lines.append(
                    f"{indent}- {inline(key)}: {'-' if inner in (None, [], {}) else inline(inner)}"
                )
        return lines
    return [f"{indent}{inline(value)}"]


def _flat(value: Any) -> str | None:
    """On one line, where nothing is nested any deeper."""
    inner = list(value.values()) if isinstance(value, Mapping) else value
    if any(isinstance(v, (Mapping, list)) for v in inner):
        return None
    if isinstance(value, Mapping):
        return ", ".join(f"{inline(k)} {'-' if v is None else inline(v)}" for k, v in value.items())
    return ", ".join(inline(v) for v in value)
