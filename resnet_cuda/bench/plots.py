"""Pictures of a report: at most PICTURES, each only where the report has something for it. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from resnet_cuda.bench.results import (
    Comparison,
    Row,
    by_level_and_pass,
    comparisons,
    median_us,
)
from resnet_cuda.bench.roofline import Point, point
from resnet_cuda.bench.tables import format_rate
from resnet_cuda.bench.workload import OURS

# Okabe and Ito's colours: told apart by colour-blind readers, too.
_OURS, _PEER, _SLOWER = "#0072B2", "#E69F00", "#D55E00"
_GREY = "#8c8c8c"
_CYCLE = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c8c8c", "#F0E442", "#000000")
_ROWS_PER_COLUMN, _MAX_COLUMNS = 45, 3


def draw(data: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws into the folder what the report has, in place of what was there; returns remarks, e.g. that matplotlib is
    missing."""
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    try:
        import matplotlib
    except ImportError:
        return ["no pictures: matplotlib is not installed (python -m pip install matplotlib)"]
    matplotlib.use("Agg", force=False)
    remarks = []
    style: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        for name, picture in PICTURES.items():
            try:
                figure = picture(data)
                if figure is not None:
                    figure.savefig(folder / name, dpi=110)
            except Exception as error:  # a picture is the least of a report
                remarks.append(f"{name} could not be drawn: {type(error).__name__}: {error}")
    return remarks


def _figure(width: float, height: float, title: str, data: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure  # not pyplot: it keeps every figure

    figure = Figure(figsize=(width, height), layout="constrained")
    environment = data.get("environment") or {}
    unfinished = "" if data.get("finished") else ", cut off"
    where = f"{environment.get('name', 'unknown device')}, {data.get('started', '')}{unfinished}"
    figure.suptitle(f"{title}\n{where}", fontsize=10)
    return figure


def _best(comparison: Comparison) -> list[tuple[Row, bool]]:
    rows = ((comparison.best_ours, True), (comparison.best_peer, False))
    return [(row, mine) for row, mine in rows if row is not None]


def roofline(data: Mapping[str, Any]) -> Any:
    """A panel for each pass of the kernels (where there are none: of the ops, blocks, models) and dtype; workloads
    without arithmetic share one that shows their bandwidth."""
    ceilings = data.get("ceilings")
    if not ceilings:
        return None
    groups = _roofline_groups(comparisons(data))
    flat = [c for c in groups.pop("", []) if c]
    if not groups and not flat:
        return None
    columns = 2 if len(groups) > 1 else 1
    lines = ceil(len(groups) / columns)
    flat_height = 1.2 + 0.2 * len(flat) if flat else 0.0
    figure = _figure(8.0 * columns, 0.6 + 4.2 * lines + flat_height, "roofline", data)
    heights = [4.2] * lines + [flat_height] * bool(flat)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for i, (title, group) in enumerate(groups.items()):
        axes = figure.add_subplot(grid[i // columns, i % columns])
        _draw_roof(axes, title, group, ceilings)
    if flat:
        _draw_bandwidth(figure.add_subplot(grid[lines, :]), flat, ceilings)
    return figure


def _roofline_groups(found: Sequence[Comparison]) -> dict[str, list[Comparison]]:
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
        axes.plot([x] * len(both), heights, color=_GREY, lw=0.6, zorder=1)
        for place, mine in both:
            colour, marker = (_OURS, "o") if mine else (_PEER, "D")
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
    axes.plot([], [], "o", color=_OURS, label="ours, the fastest")
    axes.plot([], [], "D", color=_PEER, label="peers, the fastest")
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="FLOP/s", title=title)
    axes.set_xlim(low, high)
    axes.margins(y=0.18)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", frameon=False)
    key = ["of floor: ours, peer", ""]
    key += [f"{number:2} {c.workload} {_fractions(both)}" for number, c, both in found]
    axes.text(
        1.02,
        1.0,
        "\n".join(key),
        transform=axes.transAxes,
        va="top",
        family="monospace",
        fontsize=6,
    )


def _fractions(both: Iterable[tuple[Point, bool]]) -> str:
    """Of the floor: ours, then the peer's."""
    return " ".join(f"{100 * p.fraction:.0f}%" for p, _ in both)


def _draw_bandwidth(axes: Any, group: Sequence[Comparison], ceilings: Mapping[str, Any]) -> None:
    unit = 1e9
    for i, comparison in enumerate(group):
        for row, mine in _best(comparison):
            if (place := point(row)) is not None:
                colour, marker = (_OURS, "o") if mine else (_PEER, "D")
                axes.plot(place.bytes_per_second / unit, i, marker, color=colour, ms=5)
    axes.axvline(ceilings["bandwidth"] / unit, color="black", lw=1.2)
    names = [f"{c.workload}, {c.pass_name}, {c.dtype}" for c in group]
    axes.set_yticks(range(len(group)), names, fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set(xlabel="GB/s at the least traffic; line: the measured copy", title="no arithmetic")
    axes.grid(alpha=0.3)


def speedup(data: Mapping[str, Any]) -> Any:
    """A bar for each workload: its fastest peer's time over ours; dots: the other peers."""
    lines = _speedup_lines(comparisons(data))
    if not any(isinstance(line, Comparison) for line in lines):
        return None
    room = _ROWS_PER_COLUMN * _MAX_COLUMNS
    left_out = sum(isinstance(line, Comparison) for line in lines[room:])
    lines = lines[:room]
    columns = ceil(len(lines) / _ROWS_PER_COLUMN)
    per_column = ceil(len(lines) / columns)
    more = f"; {left_out} more workloads in report.md" if left_out else ""
    title = f"peers' time / ours: bar: the fastest peer, dots: the others{more}"
    figure = _figure(7.5 * columns, 1.4 + 0.2 * per_column, title, data)
    all_axes = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for i, axes in enumerate(all_axes):
        _draw_bars(axes, lines[i * per_column : (i + 1) * per_column])
    return figure


def _speedup_lines(found: Sequence[Comparison]) -> list[Comparison | str]:
    """Headings and workloads that ran."""
    lines: list[Comparison | str] = []
    for (level, pass_name), group in by_level_and_pass(found).items():
        shown = [c for c in group if c.ours and c.peers and not c.all_skipped]
        if shown:
            lines += [f"{level}, {pass_name}", *shown]
    return lines


def _draw_bars(axes: Any, lines: Sequence[Comparison | str]) -> None:
    names = []
    for i, line in enumerate(lines):
        if isinstance(line, str):
            names.append(line)
            continue
        names.append(f"{line.workload}  {line.dtype}")
        ratio, best, ours = line.speedup_over_best, line.best_peer, line.best_ours
        if ratio is None or best is None or ours is None:
            said = line.ours[0]["status"] if ours is None else "no peer ran"
            axes.annotate(said, (1.0, i), xytext=(4, 0), textcoords="offset points", va="center")
            continue
        axes.barh(i, ratio - 1, left=1, height=0.7, color=_OURS if ratio >= 1 else _SLOWER)
        others = [r for p in line.peers if p is not best and (r := line.speedup(p, ours))]
        axes.plot(others, [i] * len(others), ".", color=_GREY, ms=4)
        end = max([1.0, ratio, *others])
        text = f"{ratio:.2f} {best['candidate']}"
        axes.annotate(
            text, (end, i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=6.5
        )
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_yticks(range(len(names)), names, fontsize=6.5)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        if isinstance(line, str):
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.margins(x=0.35)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("slower  <  1  <  ours faster")


def sweep(data: Mapping[str, Any]) -> Any:
    """Images per second against the batch: a panel for each network, pass and dtype, a line for each candidate."""
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for row in data.get("results", []):
        network = (row.get("facts") or {}).get("network")
        if row["level"] == "model" and row["images"] and row["timing"] and network:
            lines = panels.setdefault(f"{network}, {row['pass_name']}, {row['dtype']}", {})
            rate = row["images"] / median_us(row) * 1e6
            lines.setdefault(row["candidate"], {})[row["images"]] = rate
    panels = {
        title: lines
        for title, lines in panels.items()
        if len(set().union(*lines.values())) > 1  # a single batch is no sweep
    }
    if not panels:
        return None
    columns = min(len(panels), 4)
    height = ceil(len(panels) / columns)
    figure = _figure(4.2 * columns, 1.0 + 3.2 * height, "images per second against batch", data)
    from matplotlib.ticker import LogLocator

    colours = _colours(name for lines in panels.values() for name in lines)
    for i, (title, lines) in enumerate(panels.items()):
        axes = figure.add_subplot(height, columns, i + 1)
        for name, rates in lines.items():
            batches = sorted(rates)
            mine = name.startswith(OURS)
            axes.plot(
                batches,
                [rates[b] for b in batches],
                color=colours[name],
                lw=2 if mine else 1.2,
                ls="--" if name.endswith("graph") else "-",
                marker="o",
                ms=4 if mine else 3,
                zorder=3 if mine else 2,
            )
        axes.set(xscale="log", yscale="log", title=title, xlabel="batch", ylabel="images/s")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
        axes.grid(alpha=0.3)
    _legend(figure, colours)
    return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Ours in one colour, each peer in its own; a candidate in a graph has that of the one without."""
    colours: dict[str, str] = {}
    peers: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name.startswith(OURS):
            colours[name] = _OURS
        else:
            base = name.removesuffix(" + graph")
            peers.setdefault(base, _CYCLE[len(peers) % len(_CYCLE)])
            colours[name] = peers[base]
    return colours


def _legend(figure: Any, colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=name, ls="--" if name.endswith("graph") else "-")
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


PICTURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "roofline.png": roofline,
    "speedup.png": speedup,
    "sweep.png": sweep,
}
