"""Shortcuts A, B and C side by side: He et al. 2015, sec. 3.3, sec. 4.1 and table 3.

A pads new channels with zeros, B projects where the shape changes, C projects everywhere. The same network, recipe and
seeds, on scikit-learn's digits, or with --data on CIFAR-10. Writes log.csv, summary.json and curves.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

import torch

from resnet_cuda.models import create_model
from resnet_cuda.training.arguments import (
    add_comparison_arguments,
    build_model,
    comparison_setting,
    model_options,
    run_experiment,
)
from resnet_cuda.training.comparison import compare, last_epochs, mean_log, report
from resnet_cuda.training.figures import error_curves

_OPTIONS = ("A", "B", "C")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=20, help="of the ResNet (default 20)")
    add_comparison_arguments(parser, "shortcuts_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    model = f"cifar_resnet{arguments.depth}"
    setting, seeds = comparison_setting(arguments)
    options = model_options(setting.data)
    networks = {
        f"shortcut {option}": partial(build_model, model, arguments, **options, shortcut=option)
        for option in _OPTIONS
    }
    logs = compare(networks, setting, seeds, arguments.out, resume=arguments.resume)

    results = last_epochs(logs)
    with torch.device("meta"):
        sizes = [create_model(model, **options, shortcut=option) for option in _OPTIONS]
    for row, network in zip(results.values(), sizes, strict=True):
        row["parameters"] = sum(p.numel() for p in network.parameters())
    report(arguments.out, setting, seeds, results, model=model)
    for name, row in results.items():
        print(f"{name}: {row['parameters']:,} parameters")
    panel = {name: mean_log(of_seeds) for name, of_seeds in logs.items()}
    error_curves(arguments.out / "curves.png", {model: panel})
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
