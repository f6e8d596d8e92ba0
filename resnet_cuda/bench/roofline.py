"""Where each result stands under the roofline, and what a network's layers add up to, from a report's data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from resnet_cuda.bench.results import Comparison, Row, comparisons, median_us

MEMORY, ARITHMETIC = "memory", "arithmetic"


@dataclass(frozen=True)
class Point:
    """One timed result under the roofline.

    intensity: FLOP per byte at the least traffic, None where there is no traffic or no arithmetic to speak of.
    fraction: of the floor that was reached, floor / median; 1 is perfect, more than 1 means that data stayed in
    caches or that arithmetic ran in another dtype than the ceiling's.
    memory_share: which share of the floor traffic sets, 0 to 1: 0 or 1 for a single kernel, between for a network.
    """

    row: Row
    intensity: float | None
    flops_per_second: float
    bytes_per_second: float
    floor_us: float
    fraction: float
    memory_share: float

    @property
    def bound(self) -> str:
        return MEMORY if self.memory_share >= 0.5 else ARITHMETIC


def point(row: Row) -> Point | None:
    """None where the result has no time, or the workload no floor (call overhead)."""
    if not row["timing"] or not row.get("floor_us"):
        return None
    us = median_us(row)
    share = row.get("memory_share")
    return Point(
        row=row,
        intensity=row["flops"] / row["bytes"] if row["bytes"] and row["flops"] else None,
        flops_per_second=row["flops"] / us * 1e6,
        bytes_per_second=row["bytes"] / us * 1e6,
        floor_us=row["floor_us"],
        fraction=row["floor_us"] / us,
        memory_share=1.0 if share is None else share,
    )


def points(rows: Iterable[Row]) -> list[Point]:
    return [p for p in map(point, rows) if p]


@dataclass(frozen=True)
class Total:
    """What one candidate takes for all layers of a network: the sum over distinct layers of count x median.

    layers, of: how many distinct layers it has a time for, and how many there are. floor_us: of those it has.
    ratio: its time over ours, over the layers that both have; None for ours.
    """

    network: str
    level: str
    op: str
    pass_name: str
    dtype: str
    candidate: str
    ours: bool
    layers: int
    of: int
    us: float
    floor_us: float
    ratio: float | None


def totals(data: Mapping[str, Any]) -> list[Total]:
    """Per network, level, kind of layer, pass and dtype: each candidate that has a time, ours first.

    Layers are the workloads that know their network (facts: "network", and "op" where there are several kinds) and
    are no whole model or block.
    """
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for comparison in comparisons(data):
        facts = comparison.rows[0].get("facts") or {}
        if comparison.level in ("kernel", "op") and facts.get("network"):
            key = (facts["network"], comparison.level, facts.get("op", ""))
            groups.setdefault((*key, comparison.pass_name, comparison.dtype), []).append(comparison)
    return [total for key, layers in groups.items() for total in _totals(key, layers)]


def _totals(key: tuple[str, ...], layers: list[Comparison]) -> list[Total]:
    network, level, op, pass_name, dtype = key
    times: dict[str, dict[int, float]] = {}  # per candidate and layer
    ours: dict[str, bool] = {}
    floors: dict[int, float] = {}
    for i, layer in enumerate(layers):
        for row in layer.rows:
            if row["timing"]:
                times.setdefault(row["candidate"], {})[i] = row["count"] * median_us(row)
                ours[row["candidate"]] = row["ours"]
                floors[i] = row["count"] * (row.get("floor_us") or 0.0)
    first = next((name for name, mine in ours.items() if mine), None)

    def ratio(name: str) -> float | None:
        if first is None or ours[name]:
            return None
        both = times[name].keys() & times[first].keys()
        if not both:
            return None
        return sum(times[name][i] for i in both) / sum(times[first][i] for i in both)

    return [
        Total(
            network=network,
            level=level,
            op=op,
            pass_name=pass_name,
            dtype=dtype,
            candidate=name,
            ours=ours[name],
            layers=len(times[name]),
            of=len(layers),
            us=sum(times[name].values()),
            floor_us=sum(floors[i] for i in times[name]),
            ratio=ratio(name),
        )
        for name in sorted(times, key=lambda name: (not ours[name], -len(times[name])))
    ]
