"""Deeper plain nets train worse, deeper residual nets do not: He et al. 2015, sec. 4.2 and figure 6.

Trains plain-20, plain-56, ResNet-20 and ResNet-56 with the same recipe, on scikit-learn's digits, or with --data on
CIFAR-10. Writes log.csv (every epoch of every run), summary.json and curves.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from resnet_cuda.training.arguments import (
    add_comparison_arguments,
    build_model,
    comparison_setting,
    model_options,
    run_experiment,
)
from resnet_cuda.training.comparison import compare, last_epochs, mean_log, report
from resnet_cuda.training.figures import error_curves

_KINDS = {"plain": "cifar_plain", "ResNet": "cifar_resnet"}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--depths", type=int, nargs=2, default=(20, 56), help="two depths (default 20 56)"
    )
    add_comparison_arguments(parser, "degradation_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    shallow, deep = arguments.depths
    if not shallow < deep:
        raise ValueError(f"depths={shallow} {deep}: expected the smaller one first")
    setting, seeds = comparison_setting(arguments)
    networks = {
        f"{kind}-{depth}": partial(
            build_model, f"{model}{depth}", arguments, **model_options(setting.data)
        )
        for kind, model in _KINDS.items()
        for depth in (shallow, deep)
    }
    logs = compare(networks, setting, seeds, arguments.out, resume=arguments.resume)

    results = last_epochs(logs)
    gaps = {
        kind: results[f"{kind}-{deep}"]["train_loss"] - results[f"{kind}-{shallow}"]["train_loss"]
        for kind in _KINDS
    }
    report(arguments.out, setting, seeds, results, train_loss_of_the_deeper_less_the_shallower=gaps)
    for kind, gap in gaps.items():
        verdict = "worse" if gap > 0 else "no worse"
        print(f"{kind}-{deep} trains {verdict} than {kind}-{shallow}: training loss {gap:+.4f}")
    panels = {
        kind: {f"{kind}-{d}": mean_log(logs[f"{kind}-{d}"]) for d in (shallow, deep)}
        for kind in _KINDS
    }
    error_curves(arguments.out / "curves.png", panels)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
