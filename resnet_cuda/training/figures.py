"""Pictures of training runs. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_cuda.training.files import write_atomically
from resnet_cuda.training.trainer import Row

# Okabe and Ito's colours: told apart by colour-blind readers, too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: it keeps every figure
    except ImportError as error:
        raise RuntimeError(
            "matplotlib is missing, which draws the figures: python -m pip install matplotlib"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """As PNG, in one step."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def error_curves(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[Row]]], tests: bool = True
) -> None:
    """Errors over iterations, as in He et al. 2015, figure 6: dashed for training, bold for test.

    Args:
        path: the PNG to write.
        panels: per panel's title, the log of each network.
        tests: draw the test errors too.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    figure = new_figure(1 + 4.5 * len(panels), 3.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, logs) in zip(axes, panels.items(), strict=True):
        for colour, (name, log) in zip(COLOURS, logs.items(), strict=False):
            x = [row["iteration"] for row in log]
            train = [100 * row["train_error"] for row in log]
            dashed = "--" if tests else "-"
            axis.plot(x, train, dashed, color=colour, linewidth=1.2, label=f"{name}, training")
            if tests:
                test = [100 * row["test_error"] for row in log]
                axis.plot(x, test, color=colour, linewidth=2, label=f"{name}, test")
        axis.set(xlabel="iteration", title=title, ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("error, %")
    save_figure(figure, path)
