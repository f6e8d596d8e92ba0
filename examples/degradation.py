"""Deeper plain nets train worse, deeper residual nets do not: He et al. 2015, sec. 4.2 and figure 6.

Trains plain-20, plain-56, ResNet-20 and ResNet-56 with the same recipe, on scikit-learn's digits, or with --data on
CIFAR-10. Writes log.csv (every epoch of every run), summary.json and curves.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from resnet_cuda.training import Recipe
from resnet_cuda.training.arguments import (
    add_data_arguments,
    add_run_arguments,
    build_model,
    device_of,
    load_data,
    run_experiment,
)
from resnet_cuda.training.comparison import Logs, Setting, compare, mean_log
from resnet_cuda.training.figures import error_curves
from resnet_cuda.training.records import environment, write_json

# The paper's 0.1 is too much for ResNet-56 on so few images: it loses the first epochs.
_DIGITS = Recipe(iterations=352, batch=64, lr=0.02, milestones=(176, 264))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--depths", type=int, nargs=2, default=(20, 56), help="two depths (default 20 56)"
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each net (default 1)")
    parser.add_argument(
        "--iterations", type=int, help="default: 352, with --data the paper's 64000"
    )
    parser.add_argument("--lr", type=float, help="default: 0.02, with --data the paper's 0.1")
    add_data_arguments(parser)
    add_run_arguments(parser, "degradation_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    if arguments.seeds < 1:
        raise ValueError(f"seeds={arguments.seeds}: expected at least 1")
    device = device_of(arguments)
    data, augment = load_data(arguments)
    recipe = _DIGITS if arguments.data is None else Recipe()
    recipe = recipe.changed(arguments.iterations, lr=arguments.lr)
    options = {"num_classes": len(data.classes), "in_channels": data.train_images.shape[1]}
    families = {"plain": "cifar_plain", "ResNet": "cifar_resnet"}
    networks = {
        f"{kind}-{depth}": partial(build_model, f"{name}{depth}", arguments, **options)
        for kind, name in families.items()
        for depth in arguments.depths
    }
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    setting = Setting(data, recipe, device, augment, arguments.amp)
    logs = compare(networks, setting, seeds, arguments.out, resume=arguments.resume)

    results = {name: _last(of_seeds) for name, of_seeds in logs.items()}
    shallow, deep = arguments.depths
    gaps = {
        kind: results[f"{kind}-{deep}"]["train_loss"] - results[f"{kind}-{shallow}"]["train_loss"]
        for kind in families
    }
    summary = {
        "seeds": list(seeds),
        "recipe": asdict(recipe),
        "last_epoch": results,
        "train_loss_of_the_deeper_less_the_shallower": gaps,
        "environment": environment(device),
    }
    write_json(arguments.out / "summary.json", summary)
    _print(results, gaps, shallow, deep)
    _draw(logs, list(families), arguments.out / "curves.png")
    return 0


def _last(logs: list[Any]) -> dict[str, Any]:
    """The last epoch's figures: mean over the seeds, and every seed's training loss."""
    rows = [log[-1] for log in logs]
    means = {key: mean(row[key] for row in rows) for key in ("train_loss", "train_error")}
    means["test_error"] = mean(row["test_error"] for row in rows)
    means["seconds"] = mean(sum(row["seconds"] for row in log) for log in logs)
    return {**means, "train_losses": [row["train_loss"] for row in rows]}


def _print(
    results: Mapping[str, Mapping[str, Any]], gaps: Mapping[str, float], shallow: int, deep: int
) -> None:
    print(f"\n{'':12}{'training loss':>16}{'training error':>16}{'test error':>12}")
    for name, row in results.items():
        print(
            f"{name:12}{row['train_loss']:16.4f}{row['train_error']:16.2%}{row['test_error']:12.2%}"
        )
    for kind, gap in gaps.items():
        verdict = "worse" if gap > 0 else "no worse"
        print(f"{kind}-{deep} trains {verdict} than {kind}-{shallow}: training loss {gap:+.4f}")


def _draw(logs: Logs, kinds: list[str], path: Path) -> None:
    means = {name: mean_log(of_seeds) for name, of_seeds in logs.items()}
    panels = {
        f"{kind} nets": {name: log for name, log in means.items() if name.startswith(f"{kind}-")}
        for kind in kinds
    }
    error_curves(path, panels)


if __name__ == "__main__":
    sys.exit(run_experiment(run, make_parser()))
