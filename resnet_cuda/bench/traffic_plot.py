"""The picture of the bytes that a network moves: ours, eager's, the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_cuda.bench.figures import GREY, OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, new_figure

_SIDES = ("ours", "eager", "minimum")
_COLOURS = (OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, GREY)


def traffic(data: Mapping[str, Any]) -> Any:
    """Three bars for each run, in parts by kind of work; both phases together."""
    runs = data.get("traffic") or []
    if not runs:
        return None
    figure = new_figure(8.0, 1.2 + 1.0 * len(runs), "bytes moved, emulated", data)
    axes = figure.subplots()
    positions, labels = [], []
    kinds = list(dict.fromkeys(line["kind"] for run in runs for line in run["kinds"]))
    for i, run in enumerate(runs):
        pixels = run["image_size"]
        title = f"{run['network']} {run['mode']}\n"
        title += f"batch {run['batch']}, {pixels}x{pixels}, {run['dtype']}"
        for j, side in enumerate(_SIDES):
            position, left = i * 4 + j, 0.0
            positions.append(position)
            labels.append(f"{title}  {side}" if j == 1 else side)
            for kind, colour in zip(kinds, _COLOURS, strict=False):
                size = sum(line[side] for line in run["kinds"] if line["kind"] == kind) / 1e6
                name = kind if position == 0 else None
                axes.barh(position, size, left=left, color=colour, label=name)
                left += size
    axes.set_yticks(positions, labels)
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
