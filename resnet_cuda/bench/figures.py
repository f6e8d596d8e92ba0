"""What the pictures of a report share: sizes, titles, colours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Okabe and Ito's colours: told apart by colour-blind readers, too.
OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR = "#0072B2", "#E69F00", "#D55E00"
GREY = "#8c8c8c"
STYLE: Any = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def new_figure(width: float, height: float, title: str, data: Mapping[str, Any]) -> Any:
    """An empty figure, in inches, with the device and the date under its title."""
    from matplotlib.figure import Figure  # not pyplot: it keeps every figure

    figure = Figure(figsize=(width, height), layout="constrained")
    environment = data.get("environment") or {}
    unfinished = "" if data.get("finished") else ", not finished"
    where = f"{environment.get('name', 'unknown device')}, {data.get('started', '')}{unfinished}"
    figure.suptitle(f"{title}\n{where}", fontsize=10)
    return figure
