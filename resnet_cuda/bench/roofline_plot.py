"""The picture of all kernels under the measured roof."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_cuda.bench.figures import GREY, OURS_COLOUR, PEER_COLOUR, new_figure
from resnet_cuda.bench.results import Comparison, Row, comparisons
from resnet_cuda.bench.roofline import Point, point
from resnet_cuda.bench.tables import format_rate

_MAX_FLAT = 60  # workloads without arithmetic
_MAX_NAME = 48


def _best(comparison: Comparison) -> list[tuple[Row, bool]]:
    rows = ((comparison.best_ours, True), (comparison.best_peer, False))
    return [(row, mine) for row, mine in rows if row is not None]


def roofline(data: Mapping[str, Any]) -> Any:
    """A panel for each pass of the kernels (where there are none: of the ops, blocks, models) and dtype; workloads
    without arithmetic share one that shows their bandwidth."""
    ceilings = data.get("ceilings")
    if not ceilings:
        return None
    groups = _groups(comparisons(data))
    flat = groups.pop("", [])
    if not groups and not flat:
        return None
    left_out = max(0, len(flat) - _MAX_FLAT)
    flat = sorted(sorted(flat, key=_weight)[left_out:], key=flat.index)
    columns = 2 if len(groups) > 1 else 1
    titles = list(groups)
    lines = [titles[i : i + columns] for i in range(0, len(titles), columns)]
    heights = [max(3.6, 1.0 + 0.115 * max(len(groups[t]) for t in line)) for line in lines]
    flat_heights = [1.0 + 0.17 * len(flat)] if flat else []
    height = 0.9 + sum(heights + flat_heights)
    figure = new_figure(8.0 * columns, height, "roofline", data)
    parts = figure.subfigures(len(heights + flat_heights), 1, height_ratios=heights + flat_heights)
    parts = list(parts) if len(heights + flat_heights) > 1 else [parts]
    for part, line in zip(parts, lines, strict=False):
        for i, title in enumerate(line):
            _draw_roof(part.add_subplot(1, columns, i + 1), title, groups[title], ceilings)
    if flat:
        _draw_bandwidth(parts[-1].add_subplot(), flat, ceilings, left_out)
    figure.legend(handles=_markers(), loc="outside upper right", frameon=False)
    return figure


def _markers() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=OURS_COLOUR, marker="o", ls="", label="ours, the fastest"),
        Line2D([], [], color=PEER_COLOUR, marker="D", ls="", label="peers, the fastest"),
    ]


def _weight(comparison: Comparison) -> float:
    """How much it matters to its network."""
    row = comparison.rows[0]
    return float((row.get("floor_us") or 0.0) * row["count"])


def _groups(found: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """{panel's title: its workloads}; "" has those without arithmetic."""
    for level in ("kernel", "op", "block", "model"):
        groups: dict[str, list[Comparison]] = {}
        for comparison in found:
            places = [p for row, _ in _best(comparison) if (p := point(row))]
            if comparison.level == level and places:
                title = f"{level}, {comparison.pass_name}, {comparison.dtype}"
                groups.setdefault(title if places[0].intensity else "", []).append(comparison)
        if groups:
            return groups
    return {}


def _draw_roof(
    axes: Any, title: str, group: Sequence[Comparison], ceilings: Mapping[str, Any]
) -> None:
    found: list[tuple[int, Comparison, list[tuple[Point, bool]]]] = []
    for number, comparison in enumerate(group, 1):
        both = [(p, mine) for row, mine in _best(comparison) if (p := point(row))]
        found.append((number, comparison, both))
    bandwidth, peak = ceilings["bandwidth"], ceilings["flops"].get(group[0].dtype)
    intensities = [p.intensity or 1.0 for _, _, both in found for p, _ in both]
    low, high = min(intensities) / 2, max(intensities) * 2
    slope = (low * high) ** 0.5  # where the roof's left part gets its name
    if peak:
        ridge = peak / bandwidth
        low, high = min(low, ridge / 4), max(high, ridge * 4)
        slope = (low * ridge) ** 0.5
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color="black", lw=1.2)
        axes.annotate(
            f"{group[0].dtype} {format_rate(peak, 'FLOP/s')}",
            (high, peak),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
        )
    else:
        axes.plot([low, high], [low * bandwidth, high * bandwidth], color="black", lw=1.2)
    axes.annotate(
        f"copy {format_rate(bandwidth, 'B/s')}",
        (slope, slope * bandwidth),
        xytext=(8, -4),
        textcoords="offset points",
        va="top",
    )
    by_place = sorted(found, key=lambda item: item[2][0][0].intensity or 0.0)
    near, level = (high / low) ** 0.03, 0
    previous = 0.0
    for number, _, both in by_place:
        x = both[0][0].intensity or 1.0
        # Neighbours' numbers at different heights, below the lower marker.
        level = (level + 1) % 4 if x < previous * near else 0
        previous = x
        heights = [p.flops_per_second for p, _ in both]
        axes.plot([x] * len(both), heights, color=GREY, lw=0.6, zorder=1)
        for place, mine in both:
            colour, marker = (OURS_COLOUR, "o") if mine else (PEER_COLOUR, "D")
            axes.plot(x, place.flops_per_second, marker, color=colour, ms=4.5 if mine else 3.8)
        axes.annotate(
            str(number),
            (x, min(heights)),
            xytext=(0, -5 - 8 * level),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="FLOP/s", title=title)
    axes.set_xlim(low, high)
    axes.margins(y=0.18)
    axes.grid(alpha=0.3)
    key = ["of floor: ours, peer", ""]
    key += [f"{number:2} {_short(c.workload)} {_fractions(both)}" for number, c, both in found]
    axes.text(
        1.02,
        1.0,
        "\n".join(key),
        transform=axes.transAxes,
        va="top",
        family="monospace",
        fontsize=6,
    )


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 3] + "..."


def _fractions(both: Iterable[tuple[Point, bool]]) -> str:
    """Of the floor: ours, then the peer's."""
    return " ".join(f"{100 * p.fraction:.0f}%" for p, _ in both)


def _draw_bandwidth(
    axes: Any, group: Sequence[Comparison], ceilings: Mapping[str, Any], left_out: int
) -> None:
    unit = 1e9
    for i, comparison in enumerate(group):
        for row, mine in _best(comparison):
            if (place := point(row)) is not None:
                colour, marker = (OURS_COLOUR, "o") if mine else (PEER_COLOUR, "D")
                axes.plot(place.bytes_per_second / unit, i, marker, color=colour, ms=5)
    axes.axvline(ceilings["bandwidth"] / unit, color="black", lw=1.2)
    names = [f"{c.workload}, {c.pass_name}, {c.dtype}" for c in group]
    axes.set_yticks(range(len(group)), names, fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    title = "passes without arithmetic" + (f"; {left_out} smaller ones: report.md" * bool(left_out))
    axes.set(xlabel="GB/s at the least traffic; line: the measured copy", title=title)
    axes.grid(alpha=0.3)
