"""Residual functions respond weakly: He et al. 2015, sec. 4.2 and figure 7.

Trains plain and residual nets (as degradation.py does: --resume takes its folder's nets as they are) and draws the
standard deviation of every layer's output behind its batch norm. It follows from the batch norms' running statistics,
without running the network; forward hooks check it. Writes layer_response.csv, .json and .png.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from resnet_cuda.training import Normalisation, Trainer
from resnet_cuda.training.arguments import (
    add_comparison_arguments,
    build_model,
    comparison_setting,
    model_options,
    run_experiment,
)
from resnet_cuda.training.comparison import compare
from resnet_cuda.training.figures import COLOURS, new_figure, save_figure
from resnet_cuda.training.records import environment, write_csv, write_json
from resnet_cuda.training.responses import measured_response_stds, response_stds

_NETWORKS = ("plain-20", "plain-56", "ResNet-20", "ResNet-56")
_IMAGES = 500  # training images that the hooks see


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks",
        nargs="+",
        default=_NETWORKS,
        metavar="KIND-DEPTH",
        help=f"default: {' '.join(_NETWORKS)}",
    )
    add_comparison_arguments(parser, "degradation_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    setting, seeds = comparison_setting(arguments)
    options = model_options(setting.data)
    networks = {
        name: partial(build_model, f"cifar_{name.lower().replace('-', '')}", arguments, **options)
        for name in arguments.networks
    }
    normalise = Normalisation.per_pixel(setting.data.train_images).to(setting.device)
    rows: list[dict[str, Any]] = []

    def note(name: str, seed: int, trainer: Trainer) -> None:
        x = normalise(setting.data.train_images[:_IMAGES].to(trainer.device))
        measured = measured_response_stds(trainer.model, x)
        for i, (layer, std) in enumerate(response_stds(trainer.model).items(), 1):
            row = {"network": name, "seed": seed, "index": i, "layer": layer}
            rows.append({**row, "std": std, "measured": measured[layer]})

    compare(networks, setting, seeds, arguments.out, resume=arguments.resume, on_trained=note)
    write_csv(arguments.out / "layer_response.csv", rows)
    summary = {name: _summary([r for r in rows if r["network"] == name]) for name in networks}
    content = {"networks": summary, "environment": environment(setting.device)}
    write_json(arguments.out / "layer_response.json", content)
    for name, values in summary.items():
        print(
            f"{name:12} mean std {values['mean_std']:.3f}; by hooks {values['mean_measured']:.3f}, "
            f"at most {values['largest_deviation']:.1%} apart in a layer"
        )
    _draw([r for r in rows if r["seed"] == arguments.seed], arguments.out / "layer_response.png")
    return 0


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {
        "mean_std": sum(r["std"] for r in rows) / len(rows),
        "mean_measured": sum(r["measured"] for r in rows) / len(rows),
        "largest_deviation": max(abs(r["std"] / r["measured"] - 1) for r in rows),
    }


def _draw(rows: list[dict[str, Any]], path: Any) -> None:
    """As the paper's figure: layers in their order above, by magnitude below."""
    figure = new_figure(7, 6)
    above, below = figure.subplots(2, 1)
    names = list(dict.fromkeys(r["network"] for r in rows))
    for name, colour in zip(names, COLOURS, strict=False):
        stds = [r["std"] for r in rows if r["network"] == name]
        indices = range(1, len(stds) + 1)
        style = "--" if name.startswith("plain") else "-"
        above.plot(indices, stds, style, color=colour, label=name)
        below.plot(indices, sorted(stds, reverse=True), style, color=colour, label=name)
    above.set(xlabel="layer", ylabel="std of its response")
    below.set(xlabel="layer, by magnitude", ylabel="std of its response")
    for axis in (above, below):
        axis.grid(alpha=0.3)
        axis.set_ylim(0, None)
    above.legend(fontsize=8)
    save_figure(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
