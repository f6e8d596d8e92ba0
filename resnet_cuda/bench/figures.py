"""What the pictures of a report share: sizes, titles, colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log10
from typing import Any

# Okabe and Ito's colours: told apart by colour-blind readers, too.
OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR = "#0072B2", "#E69F00", "#D55E00"
GREY = "#8c8c8c"
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def log_axis(axis: Any, low: float, high: float, text: Callable[[float], str]) -> None:
    """Ticks of a logarithmic axis from `low` to `high`, a few of them labelled however short the axis is."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    decades = log10(high / low)
    subs = (1,) if decades > 3 else (1, 2, 5)
    short = decades < 0.8  # so short that even steps look right
    axis.set_major_locator(MaxNLocator(6) if short else LogLocator(subs=subs, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def new_figure(width: float, height: float, title: str, data: Mapping[str, Any]) -> Any:
    """An empty figure, in inches, with the device and the date under its title."""
    from matplotlib.figure import Figure  # not pyplot: it keeps every figure

    figure = Figure(figsize=(width, height), layout="constrained")
    environment = data.get("environment") or {}
    unfinished = "" if data.get("finished") else ", not finished"
    where = f"{environment.get('name', 'unknown device')}, {data.get('started', '')}{unfinished}"
    figure.suptitle(f"{title}\n{where}", fontsize=10)
    return figure
