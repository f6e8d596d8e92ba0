"""What batch normalisation buys: Ioffe and Szegedy 2015; Santurkar et al. 2018.

The same network with batch norms, and with their scales and shifts alone. How many learning rates train each (rates);
then, with the highest rate that trains both, how far the distribution of a layer's outputs moves, and how well the
gradient predicts what a step along it meets: the loss's range and the gradient's change (the smoothing effect). Writes
rates.csv, probes.csv, summary.json and batch_norm.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda.training import DivergedError, Normalisation, Trainer
from resnet_cuda.training.arguments import (
    add_comparison_arguments,
    build_model,
    comparison_setting,
    model_options,
    run_experiment,
)
from resnet_cuda.training.comparison import Setting, new_trainer, refuse_to_overwrite
from resnet_cuda.training.figures import COLOURS, new_figure, save_figure
from resnet_cuda.training.landscape import along_gradient, percentiles
from resnet_cuda.training.progress import Advance, progress_bar
from resnet_cuda.training.records import environment, write_csv, write_json

_RATES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
_LAYER = "layer2.1.bn1"
_RANKS = (15, 50, 85)
_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the step, in learning rates


class ScaleShift(nn.Module):
    """A batch norm without the normalisation: x [N, C, H, W] -> gamma x + beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="cifar_resnet20", help="default: %(default)s")
    parser.add_argument("--rates", type=float, nargs="+", default=_RATES, help=f"default: {_RATES}")
    parser.add_argument(
        "--trained",
        type=float,
        default=0.5,
        metavar="ERROR",
        help="a rate trains if the last epoch's training error is below this (default %(default)s)",
    )
    parser.add_argument(
        "--probes", type=int, default=22, help="looks around on the way (default %(default)s)"
    )
    add_comparison_arguments(parser, "batch_norm_output")
    parser.set_defaults(iterations=88)
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.probes < 2:
        raise ValueError(f"probes={arguments.probes}: expected at least 2")
    setting, seeds = comparison_setting(arguments)
    # A constant rate: the question is which rates train, not how well.
    setting = setting._replace(recipe=replace(setting.recipe, milestones=()))
    build = partial(build_model, arguments.model, arguments, **model_options(setting.data))
    networks = {
        "batch norm": build,
        "no batch norm": partial(build, norm_layer=ScaleShift),
    }
    probes = arguments.probes * len(networks)
    runs = len(networks) * len(arguments.rates) * len(seeds)
    with progress_bar("training", runs * setting.recipe.iterations + probes) as advance:
        rates = _train_rates(networks, setting, seeds, arguments, advance)
        trained = {name: _trained_rates(rates, name, arguments.trained) for name in networks}
        common = sorted(set.intersection(*map(set, trained.values())))
        probed = _probe(networks, setting, common[-1], arguments, advance) if common else []
    summary = {
        "model": arguments.model,
        "seeds": list(seeds),
        "recipe": asdict(setting.recipe),
        "rates_that_train": trained,
        "probed_at_rate": common[-1] if common else None,
        "medians": {name: _medians(probed, name) for name in networks} if probed else {},
        "environment": environment(setting.device),
    }
    write_json(arguments.out / "summary.json", summary)
    _print(summary)
    _draw(rates, probed, list(networks), arguments.out / "batch_norm.png")
    return 0


def _train_rates(
    networks: Mapping[str, Callable[[], nn.Module]],
    setting: Setting,
    seeds: Sequence[int],
    arguments: argparse.Namespace,
    advance: Advance,
) -> list[dict[str, Any]]:
    """A row for every network, rate and seed: loss and error of the last epoch, None where it diverged."""
    recipes = {rate: replace(setting.recipe, lr=rate) for rate in arguments.rates}
    runs = [
        (name, rate, seed, arguments.out / f"{name.replace(' ', '-')}-lr{rate:g}-seed{seed}.pt")
        for name in networks
        for rate in arguments.rates
        for seed in seeds
    ]
    for *_, path in runs:
        refuse_to_overwrite(path, arguments.resume)
    rows: list[dict[str, Any]] = []
    for name, rate, seed, path in runs:
        trainer = new_trainer(name, networks[name], setting._replace(recipe=recipes[rate]), seed)
        if path.exists():
            trainer.resume(path)
        row: dict[str, Any] = {"network": name, "lr": rate, "seed": seed}
        note = partial(_announce, advance, f"{name}, lr {rate:g}, ")
        for _ in range(trainer.iteration):
            note("")
        try:
            last = trainer.run(checkpoint=path, on_step=note)[-1]
            row |= {"train_loss": last["train_loss"], "train_error": last["train_error"]}
        except DivergedError:
            for _ in range(trainer.iteration - 1, trainer.recipe.iterations):
                note("diverged")
            row |= {"train_loss": None, "train_error": None}
        rows.append(row)
        write_csv(arguments.out / "rates.csv", rows)
    return rows


def _trained_rates(rows: list[dict[str, Any]], name: str, below: float) -> list[float]:
    """The rates with which every seed came below this training error."""
    mine = [row for row in rows if row["network"] == name]
    failed = {
        row["lr"] for row in mine if row["train_error"] is None or row["train_error"] >= below
    }
    return sorted({row["lr"] for row in mine} - failed)


def _probe(
    networks: Mapping[str, Callable[[], nn.Module]],
    setting: Setting,
    rate: float,
    arguments: argparse.Namespace,
    advance: Advance,
) -> list[dict[str, Any]]:
    """Trains once more with this rate and looks around on the way, always with the same batch."""
    recipe = replace(setting.recipe, lr=rate)
    every = max(1, recipe.iterations // arguments.probes)
    x, labels = _first(setting, recipe.batch)
    rows: list[dict[str, Any]] = []
    for name, make in networks.items():
        trainer = new_trainer(name, make, setting._replace(recipe=recipe), arguments.seed)
        for i in range(arguments.probes):
            rows.append(
                {"network": name, "iteration": trainer.iteration} | _look(trainer, x, labels, rate)
            )
            advance(f"{name}, looking around")
            for _ in range(every if i + 1 < arguments.probes else 0):
                trainer.step()
        write_csv(arguments.out / "probes.csv", rows)
    return rows


def _first(setting: Setting, images: int) -> tuple[Tensor, Tensor]:
    """The network's input for the first training images, and their labels."""
    data, device = setting.data, setting.device
    normalise = Normalisation.per_pixel(data.train_images).to(device)
    x = normalise(data.train_images[:images].to(device))
    return x, data.train_labels[:images].to(device)


def _look(trainer: Trainer, x: Tensor, labels: Tensor, rate: float) -> dict[str, float]:
    model = trainer.model
    found = along_gradient(model, x, labels, [rate * length for length in _LENGTHS])
    values = percentiles(model, x, _LAYER, _RANKS)
    return {
        "loss": found.loss,
        "lowest_loss": min(found.losses),
        "highest_loss": max(found.losses),
        "gradient_change": max(found.gradient_changes),
        "smoothness": found.smoothness,
        **{f"percentile_{rank}": value for rank, value in zip(_RANKS, values, strict=True)},
    }


def _medians(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Over the probes of one network; drift: of a percentile from probe to probe, in widths of the distribution."""
    mine = [row for row in rows if row["network"] == name]
    keys = [f"percentile_{rank}" for rank in _RANKS]
    drift = [
        mean(abs(b[key] - a[key]) for key in keys) / (a[keys[-1]] - a[keys[0]])
        for a, b in zip(mine, mine[1:], strict=False)
    ]
    return {
        "loss_range": median(row["highest_loss"] - row["lowest_loss"] for row in mine),
        "gradient_change": median(row["gradient_change"] for row in mine),
        "smoothness": median(row["smoothness"] for row in mine),
        "drift": median(drift),
    }


def _print(summary: Mapping[str, Any]) -> None:
    print()
    for name, rates in summary["rates_that_train"].items():
        span = f", a factor of {max(rates) / min(rates):.0f}" if rates else ""
        print(f"{name}: trains with {', '.join(f'{rate:g}' for rate in rates) or 'no rate'}{span}")
    if summary["probed_at_rate"] is None:
        print("no rate trains both, so nothing was probed")
        return
    print(f"medians over training with rate {summary['probed_at_rate']:g}:")
    for name, values in summary["medians"].items():
        print(
            f"  {name}: loss range along the gradient {values['loss_range']:.3f}, gradient changes by "
            f"{values['gradient_change']:.2f} of itself, smoothness {values['smoothness']:.1f}, "
            f"drift {values['drift']:.3f}"
        )


def _draw(
    rates: list[dict[str, Any]], probed: list[dict[str, Any]], names: list[str], path: Path
) -> None:
    """The rates, and beside them the probes if there are any."""
    figure = new_figure(10, 7) if probed else new_figure(5, 3.5)
    axes = figure.subplots(2, 2) if probed else figure.subplots(1, 1, squeeze=False)
    _draw_rates(axes[0][0], rates, names)
    if probed:
        _draw_probes(probed, names, axes[0][1], *axes[1])
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    save_figure(figure, path)


def _draw_rates(axis: Any, rates: list[dict[str, Any]], names: list[str]) -> None:
    for name, colour in zip(names, COLOURS, strict=False):
        mine = [row for row in rates if row["network"] == name]
        points = [(row["lr"], row["train_loss"]) for row in mine if row["train_loss"] is not None]
        axis.plot(
            [lr for lr, _ in points], [loss for _, loss in points], "o-", color=colour, label=name
        )
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss, last epoch")
    axis.set_title("rates that train (diverged runs left out)")


def _draw_probes(
    probed: list[dict[str, Any]], names: list[str], spread: Any, ranges: Any, changes: Any
) -> None:
    for name, colour in zip(names, COLOURS, strict=False):
        probes = [row for row in probed if row["network"] == name]
        x = [row["iteration"] for row in probes]

        def column(key: str, rows: list[dict[str, Any]] = probes) -> list[float]:
            return [row[key] for row in rows]

        spread.plot(x, column("percentile_50"), color=colour, label=name)
        low, high = column(f"percentile_{_RANKS[0]}"), column(f"percentile_{_RANKS[-1]}")
        spread.fill_between(x, low, high, color=colour, alpha=0.2)
        low, high = column("lowest_loss"), column("highest_loss")
        ranges.fill_between(x, low, high, color=colour, alpha=0.4, label=name)
        changes.plot(x, column("gradient_change"), color=colour, label=name)
    low_rank, _, high_rank = _RANKS
    spread.set(xlabel="iteration", ylabel=f"output of {_LAYER}")
    spread.set_title(f"percentiles {low_rank}, 50, {high_rank}")
    ranges.set(xlabel="iteration", ylabel="loss", yscale="log")
    ranges.set_title("along the gradient, 0.5 to 4 learning rates")
    changes.set(xlabel="iteration", ylabel="|g(moved) - g| / |g|", yscale="log")
    changes.set_title("largest change of the gradient")


def _announce(advance: Advance, prefix: str, note: str) -> None:
    advance(prefix + note)


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
