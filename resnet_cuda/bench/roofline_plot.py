"""The picture of all kernels under the measured roof."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from resnet_cuda.bench.figures import GREY, OURS_COLOUR, PEER_COLOUR, log_axis, new_figure
from resnet_cuda.bench.results import Comparison, comparisons
from resnet_cuda.bench.roofline import Point, point
from resnet_cuda.bench.tables import format_rate

_MAX_FLAT = 60  # workloads without arithmetic
_NAME = 50  # letters of a name in the key, before it goes on in the next line
_INCHES_PER_LINE = 0.135  # of the key
_PANEL = (8.5, 3.4)  # inches, with its key; higher for a longer key


class _Place(NamedTuple):
    """A workload's points: ours and the peers' fastest, where they have one."""

    comparison: Comparison
    ours: Point | None
    peer: Point | None

    @property
    def both(self) -> list[Point]:
        return [p for p in (self.ours, self.peer) if p is not None]


def roofline(data: Mapping[str, Any]) -> Any:
    """A panel for each pass of the kernels (where there are none: of the ops, blocks, models) and dtype; workloads
    without arithmetic share one that shows their bandwidth."""
    ceilings = data.get("ceilings") or {}
    groups = _groups(comparisons(data)) if ceilings else {}
    if not groups:
        return None
    flat = groups.pop("", [])
    left_out = max(0, len(flat) - _MAX_FLAT)
    flat = sorted(sorted(flat, key=_weight)[left_out:], key=flat.index)
    # Bandwidths fill the panel that an odd number of roofs leaves empty, else a line of their own.
    panels: list[str | None] = [*groups, *([None] if flat else [])]
    columns = 1 if len(panels) == 1 else 2
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    keys = {title: _key(group) for title, group in groups.items()}
    heights = [
        max(
            _PANEL[1],
            *(
                1.2 + 0.17 * len(flat)
                if panel is None
                else 0.8 + _INCHES_PER_LINE * len(keys[panel])
                for panel in line
            ),
        )
        for line in lines
    ]
    figure = new_figure(_PANEL[0] * columns, 0.9 + sum(heights), "roofline", data)
    parts = figure.subfigures(len(lines), 1, height_ratios=heights, squeeze=False)[:, 0]
    limits = _limits([place for group in groups.values() for place in group], ceilings)
    for part, line in zip(parts, lines, strict=True):
        for i, panel in enumerate(part.subfigures(1, len(line), squeeze=False)[0]):
            title = line[i]
            if title is None:
                _draw_bandwidth(panel.add_subplot(), flat, ceilings, left_out)
            else:
                axes, beside = panel.subplots(1, 2, width_ratios=(1.1, 1))
                _draw_roof(axes, title, groups[title], ceilings, limits)
                beside.axis("off")
                text = "\n".join(keys[title])
                beside.text(0, 1, text, va="top", family="monospace", fontsize=7)
    figure.legend(handles=_markers(), loc="outside upper right", frameon=False)
    return figure


def _markers() -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=OURS_COLOUR, marker="o", ls="", label="ours, the fastest"),
        Line2D([], [], color=PEER_COLOUR, marker="D", ls="", label="peers, the fastest"),
    ]


def _weight(place: _Place) -> float:
    """How much it matters to its network."""
    row = place.comparison.rows[0]
    return float((row.get("floor_us") or 0.0) * row["count"])


def _groups(found: Sequence[Comparison]) -> dict[str, list[_Place]]:
    """{panel's title: its workloads}; "" has those without arithmetic."""
    for level in ("kernel", "op", "block", "model"):
        groups: dict[str, list[_Place]] = {}
        for comparison in found:
            rows = (comparison.best_ours, comparison.best_peer)
            place = _Place(comparison, *(point(row) if row else None for row in rows))
            if comparison.level == level and place.both:
                title = f"{level}, {comparison.pass_name}, {comparison.dtype}"
                groups.setdefault(title if place.both[0].intensity else "", []).append(place)
        if groups:
            return groups
    return {}


def _limits(places: Sequence[_Place], ceilings: Mapping[str, Any]) -> tuple[float, ...]:
    """The same for all panels: FLOP per byte from and to, FLOP/s from and to."""
    dtypes = {place.comparison.dtype for place in places}
    peaks = [ceilings["flops"][d] for d in dtypes if ceilings["flops"].get(d)]
    ridges = [peak / ceilings["bandwidth"] for peak in peaks]
    x = ridges + [p.intensity for place in places for p in place.both if p.intensity]
    y = peaks + [p.flops_per_second for place in places for p in place.both]
    return (min(x) / 2.5, max(x) * 1.6, min(y) / 2, max(y) * 1.5) if x else ()


def _draw_roof(
    axes: Any,
    title: str,
    group: Sequence[_Place],
    ceilings: Mapping[str, Any],
    limits: tuple[float, ...],
) -> None:
    left, right, bottom, top = limits
    dtype = group[0].comparison.dtype
    bandwidth, peak = ceilings["bandwidth"], ceilings["flops"].get(dtype)
    ridge = peak / bandwidth if peak else right
    axes.plot([left, ridge], [left * bandwidth, ridge * bandwidth], color="black", lw=1.2)
    if peak:
        axes.plot([ridge, right], [peak, peak], color="black", lw=1.2)
        text = f" {dtype} {format_rate(peak, 'FLOP/s')}"
        axes.annotate(text, (left, peak), xytext=(0, 4), textcoords="offset points")
    # Beside the slope, in the middle of what is to be seen of it.
    x = (max(left, bottom / bandwidth) * ridge) ** 0.5
    text = f"copy {format_rate(bandwidth, 'B/s')}"
    axes.annotate(text, (x, x * bandwidth), xytext=(8, -4), textcoords="offset points", va="top")
    near, level, previous = (right / left) ** 0.03, 0, 0.0
    numbered = enumerate(group, 1)
    for number, place in sorted(numbered, key=lambda item: item[1].both[0].intensity or 0.0):
        x = place.both[0].intensity or 1.0
        # Neighbours' numbers at different heights, below the lower marker.
        level = (level + 1) % 4 if x < previous * near else 0
        previous = x
        heights = [p.flops_per_second for p in place.both]
        axes.plot([x] * len(heights), heights, color=GREY, lw=0.6, zorder=1)
        _draw_markers(axes, place, [(x, height) for height in heights])
        offset = (0, -5 - 8 * level)
        axes.annotate(
            str(number),
            (x, min(heights)),
            xytext=offset,
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=7,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", title=title)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    log_axis(axes.xaxis, left, right, lambda value: f"{value:g}")
    log_axis(axes.yaxis, bottom, top, lambda value: format_rate(value, "FLOP/s"))
    axes.grid(alpha=0.3)


def _draw_markers(axes: Any, place: _Place, at: Sequence[tuple[float, float]]) -> None:
    """Of ours and of the peer, in the order of `place.both`."""
    for where, found in zip(at, place.both, strict=True):
        mine = found is place.ours
        colour, marker = (OURS_COLOUR, "o") if mine else (PEER_COLOUR, "D")
        axes.plot(*where, marker, color=colour, ms=5 if mine else 4)


def _key(group: Sequence[_Place]) -> list[str]:
    """Numbers, names and the fractions of the floor that ours and the peer reach."""
    width = min(_NAME, max(len(place.comparison.name) for place in group))
    lines = [f"{'of floor:':>{width + 3}}  ours  peer"]
    for number, place in enumerate(group, 1):
        first, *rest = textwrap.wrap(place.comparison.name, width)
        fractions = "".join(_percent(p) for p in (place.ours, place.peer))
        lines.append(f"{number:2} {first:<{width}}{fractions}")
        lines += [f"     {part}" for part in rest]
    return lines


def _percent(place: Point | None) -> str:
    return f"{'-' if place is None else f'{100 * place.fraction:.0f}%':>6}"


def _draw_bandwidth(
    axes: Any, group: Sequence[_Place], ceilings: Mapping[str, Any], left_out: int
) -> None:
    unit = 1e9
    for i, place in enumerate(group):
        rates = [p.bytes_per_second / unit for p in place.both]
        axes.plot(rates, [i] * len(rates), color=GREY, lw=0.6, zorder=1)
        _draw_markers(axes, place, [(rate, i) for rate in rates])
    axes.axvline(ceilings["bandwidth"] / unit, color="black", lw=1.2)
    found = [place.comparison for place in group]
    names = [f"{c.name}, {c.pass_name}, {c.dtype}" for c in found]
    axes.set_yticks(range(len(group)), names, fontsize=7)
    axes.set_ylim(len(group) - 0.5, -0.5)
    axes.set_xlim(left=0)
    title = "passes without arithmetic" + (f"; {left_out} smaller ones: report.md" * bool(left_out))
    axes.set(xlabel="GB/s at the least traffic; line: the measured copy", title=title)
    axes.grid(alpha=0.3)
