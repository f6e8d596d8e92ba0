"""Pictures of a report: at most PICTURES, each only where the report has something for it. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from resnet_cuda.bench.figures import (
    GREY,
    OURS_COLOUR,
    SLOWER_COLOUR,
    STYLE,
    log_axis,
    new_figure,
)
from resnet_cuda.bench.results import Comparison, comparisons, median_us
from resnet_cuda.bench.roofline_plot import roofline
from resnet_cuda.bench.traffic_plot import traffic
from resnet_cuda.bench.workload import OURS

_CYCLE = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8c8c8c", "#F0E442", "#000000")
_GREYS = {"other": "#c0c0c0", "idle": "#e4e4e4"}  # of a training step
_ROWS_PER_COLUMN, _MAX_COLUMNS = 45, 3
_MAX_NAME = 60  # letters on one line


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
    with matplotlib.rc_context(STYLE):
        for name, picture in PICTURES.items():
            try:
                figure = picture(data)
                if figure is not None:
                    figure.savefig(folder / name, dpi=110)
            except Exception as error:  # a picture is the least of a report
                remarks.append(f"{name} could not be drawn: {type(error).__name__}: {error}")
    return remarks


def speedup(data: Mapping[str, Any]) -> Any:
    """A bar for each workload: its fastest peer's time over ours; dots: the other peers."""
    lines = _speedup_lines(comparisons(data))
    if not any(isinstance(line, Comparison) for line in lines):
        return None
    room = _ROWS_PER_COLUMN * _MAX_COLUMNS
    left_out = sum(isinstance(line, Comparison) for line in lines[room:])
    columns = _in_columns(lines[:room])
    rows = max(len(column) for column in columns)
    more = f"; {left_out} more workloads in report.md" if left_out else ""
    title = f"peers' time over ours: bars: the fastest peer, with quartiles; dots: the others{more}"
    figure = new_figure(8.0 * len(columns), 1.4 + 0.22 * rows, title, data)
    all_axes = figure.subplots(1, len(columns), sharex=True, squeeze=False)[0]
    for axes, column in zip(all_axes, columns, strict=True):
        _draw_bars(axes, column)
        axes.set_ylim(rows - 0.4, -0.6)
    return figure


def _speedup_lines(found: Sequence[Comparison]) -> list[Comparison | str]:
    """Headings and workloads that ran."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in found:
        if comparison.ours and comparison.peers and not comparison.all_skipped:
            heading = f"{comparison.level}, {comparison.pass_name}, {comparison.dtype}"
            groups.setdefault(heading, []).append(comparison)
    lines: list[Comparison | str] = []
    for heading, group in groups.items():
        lines += [heading, *group]
    return lines


def _in_columns(lines: Sequence[Comparison | str]) -> list[list[Comparison | str]]:
    """Of about equal length; a group that goes on in the next column has its heading there, too."""
    per_column = ceil(len(lines) / ceil(len(lines) / _ROWS_PER_COLUMN))
    columns: list[list[Comparison | str]] = []
    heading = ""
    for i, line in enumerate(lines):
        if i % per_column == 0:
            columns.append([] if isinstance(line, str) else [heading])
        heading = line if isinstance(line, str) else heading
        columns[-1].append(line)
    return columns


def _times(value: float) -> str:
    return f"{value:g}x" if value >= 1 else f"1/{1 / value:g}x"


def _draw_bars(axes: Any, lines: Sequence[Comparison | str]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    names = [line if isinstance(line, str) else _in_two_lines(line.name) for line in lines]
    for i, line in enumerate(lines):
        if not isinstance(line, str):
            text = _draw_bar(axes, i, line)
            # Beside the axes, where no bar or dot can be.
            axes.text(1.01, i, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7)
    axes.axvline(1, color="black", lw=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=8))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: _times(value))
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(axis="y", length=0)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        if isinstance(line, str):
            label.set_fontweight("bold")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_xlabel("\u2190 ours slower    ours faster \u2192")


def _draw_bar(axes: Any, i: int, comparison: Comparison) -> str:
    """Returns what is to be said beside it."""
    best, ours = comparison.best_peer, comparison.best_ours
    ratio = comparison.speedup_over_best
    if ratio is None or best is None or ours is None:
        return str(comparison.ours[0]["status"]) if ours is None else "no peer ran"
    colour = OURS_COLOUR if ratio >= 1 else SLOWER_COLOUR
    axes.barh(i, ratio - 1, left=1, height=0.7, color=colour)
    quartiles = (ours.get("versus_quartiles") or {}).get(best["candidate"])
    if quartiles:
        axes.plot(quartiles, [i, i], color="black", lw=0.8)
    others = [r for p in comparison.peers if p is not best and (r := comparison.speedup(p, ours))]
    axes.plot(others, [i] * len(others), ".", color=GREY, ms=5)
    return f"{ratio:.2f}  {best['candidate']}"


def _in_two_lines(name: str) -> str:
    """Long names at a space about their middle."""
    spaces = [i for i, letter in enumerate(name) if letter == " "]
    if len(name) <= _MAX_NAME or not spaces:
        return name
    at = min(spaces, key=lambda i: abs(i - len(name) / 2))
    return f"{name[:at]}\n{name[at + 1 :]}"


def sweep(data: Mapping[str, Any]) -> Any:
    """Images per second against the batch: a panel for each network, pass and dtype, a line for each candidate."""
    panels = _rates(comparisons(data))
    panels = {
        title: lines
        for title, lines in panels.items()
        if len(set().union(*lines.values())) > 1  # a single batch is no sweep
    }
    if not panels:
        return None
    columns = min(len(panels), 4)
    height = ceil(len(panels) / columns)
    title = "images per second against batch; peers' by their ratio to ours, round by round"
    figure = new_figure(max(4.2 * columns, 6.5), 1.2 + 3.2 * height, title, data)
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
        low, high = axes.get_ylim()
        log_axis(axes.yaxis, low, high, lambda value: f"{value:g}")
        axes.grid(alpha=0.3)
    _legend(figure, colours)
    return figure


def _rates(found: Iterable[Comparison]) -> dict[str, dict[str, dict[int, float]]]:
    """{panel: {candidate: {batch: images per second}}}.

    Ours where it was measured first. A peer from another comparison ran at another time, perhaps on a slower machine:
    its rate follows from ours by their ratio, which holds at all times.
    """
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for comparison in found:
        facts = comparison.rows[0].get("facts") or {}
        if comparison.level != "model" or not facts.get("network"):
            continue
        panel = f"{facts['network']}, {comparison.pass_name}, {comparison.dtype}"
        lines = panels.setdefault(panel, {})
        for row in comparison.rows:
            if row["timing"] and (batch := row["images"]):
                ours = comparison.counterpart(row)
                rate = batch / median_us(row) * 1e6
                if not row["ours"] and ours and (ratio := comparison.speedup(row, ours)):
                    rate = lines[ours["candidate"]][batch] / ratio
                lines.setdefault(row["candidate"], {}).setdefault(batch, rate)
    return panels


def training_step(data: Mapping[str, Any]) -> Any:
    """Where a training step's time goes: a bar for each candidate, a colour for each kind of work."""
    rows = data.get("training_step") or []
    found = dict.fromkeys(part["kind"] for row in rows for part in row["kinds"])
    kinds = sorted(found, key=lambda kind: kind in _GREYS)  # else as they came, the largest first
    if not rows or not kinds:
        return None
    from matplotlib import colormaps

    colours = {kind: _GREYS.get(kind, colormaps["tab20"](i % 20)) for i, kind in enumerate(kinds)}
    figure = new_figure(9.0, 1.8 + 0.8 * len(rows), "where a training step's time goes", data)
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        left = 0.0
        for part in row["kinds"]:
            milliseconds = max(part["us"], 0.0) * 1e-3
            axes.barh(i, milliseconds, left=left, height=0.6, color=colours[part["kind"]])
            if part["share"] > 0.05:
                text = f"{100 * part['share']:.0f}%"
                axes.text(left + milliseconds / 2, i, text, ha="center", va="center", fontsize=7)
            left += milliseconds
    names = [f"{r['candidate']}\n{r['network']} n{r['batch']} {r['dtype']}" for r in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("ms, while profiled")
    handles = [_patch(colour, kind) for kind, colour in colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _patch(colour: Any, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def _colours(names: Iterable[str]) -> dict[str, str]:
    """Ours in one colour, each peer in its own; a candidate in a graph has that of the one without."""
    colours: dict[str, str] = {}
    peers: dict[str, str] = {}
    for name in dict.fromkeys(names):
        if name.startswith(OURS):
            colours[name] = OURS_COLOUR
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
    "training_step.png": training_step,
    "traffic.png": traffic,
}
