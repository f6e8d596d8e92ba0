"""The picture of the bytes that a network moves: ours, eager's, the least."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_cuda.bench.figures import GREY, OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, new_figure

_SIDES = ("ours", "eager", "minimum")
_COLOURS = (OURS_COLOUR, PEER_COLOUR, SLOWER_COLOUR, GREY)


def traffic(data: Mapping[str, Any]) -> Any:
    """Three bars for each run, in parts by kind of work; both phases together."""
    rows = [row for row in data.get("traffic") or [] if row["phase"]]
    if not rows:
        return None
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        pixels = row["image_size"]
        title = f"{row['network']} {row['mode']}"
        title += f"\nbatch {row['batch']}, {pixels}x{pixels}, {row['dtype']}"
        runs.setdefault(title, []).append(row)
    figure = new_figure(8.0, 1.2 + 1.0 * len(runs), "bytes moved, emulated", data)
    axes = figure.subplots()
    positions, labels = [], []
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for i, (title, group) in enumerate(runs.items()):
        for j, side in enumerate(_SIDES):
            position, left = i * 4 + j, 0.0
            positions.append(position)
            labels.append(f"{title}  {side}" if j == 1 else side)
            for kind, colour in zip(kinds, _COLOURS, strict=False):
                size = sum(row[side] for row in group if row["kind"] == kind) / 1e6
                axes.barh(
                    position, size, left=left, color=colour, label=kind if position == 0 else None
                )
                left += size
    axes.set_yticks(positions, labels)
    axes.invert_yaxis()
    axes.set_xlabel("MB")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
