"""The picture of the bytes that a network moves: ours, eager's, the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_cuda.bench.figures import GREY, OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, new_figure
from resnet_cuda.bench.tables import three

_SIDES = ("ours", "eager", "minimum")
_COLOURS = (OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, GREY)


def traffic(data: Mapping[str, Any]) -> Any:
    """Three bars for each run, in parts by kind of work; both phases together."""
    runs = data.get("traffic") or []
    if not runs:
        return None
    figure = new_figure(8.0, 1.2 + 1.0 * len(runs), "bytes moved, counted on the emulator", data)
    axes = figure.subplots()
    positions: list[float] = []
    kinds = list(dict.fromkeys(line["kind"] for run in runs for line in run["kinds"]))
    for i, run in enumerate(runs):
        pixels = run["image_size"]
        title = f"{run['network']} {run['mode']}, batch {run['batch']}, {pixels}x{pixels}, {run['dtype']}"
        first = i * (len(_SIDES) + 1.0)
        axes.text(0, first - 0.75, title, va="center", fontweight="bold")
        for j, side in enumerate(_SIDES):
            position, left = first + j, 0.0
            positions.append(position)
            for kind, colour in zip(kinds, _COLOURS, strict=False):
                size = sum(line[side] for line in run["kinds"] if line["kind"] == kind) / 1e6
                name = kind if not position else None
                axes.barh(position, size, left=left, color=colour, label=name)
                left += size
            axes.annotate(
                three(left),
                (left, position),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
            )
    axes.set_yticks(positions, _SIDES * len(runs))
    axes.set_ylim(positions[-1] + 0.6, -1.2)
    axes.set_xlabel("MB")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
