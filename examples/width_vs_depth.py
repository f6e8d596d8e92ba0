"""Depth, width or cardinality, for about the same number of multiply-adds, which is counted.

Wide residual networks (Zagoruyko and Komodakis 2016, sec. 2): n blocks of k times the channels cost n k^2. ResNeXt
(Xie et al. 2017, table 2): bottlenecks of 1, 2 and 4 groups, as wide as the cost allows. On scikit-learn's digits, or
with --data on CIFAR-10. Writes log.csv, summary.json and curves.png into --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn as torch_nn

from resnet_cuda import nn
from resnet_cuda.models import ResNet, wide_resnet
from resnet_cuda.training.arguments import (
    add_comparison_arguments,
    build_model,
    comparison_setting,
    model_options,
    run_experiment,
)
from resnet_cuda.training.comparison import compare, last_epochs, mean_log, report
from resnet_cuda.training.cost import cost_of
from resnet_cuda.training.figures import error_curves

# Depth and width: 8 k^2 blocks per stage become n blocks k times as wide.
_WIDE = ((52, 1), (16, 2))
# Groups and the paper's width of a group, at 64 base channels.
_RESNEXT = ((1, 64), (2, 40), (4, 24))
_RESNEXT_BLOCKS = 3  # per stage: 29 layers


def resnext(groups: int, width: int, **options: object) -> ResNet:
    """ResNeXt-29 for images of CIFAR's kind, with the channels of CIFAR's ResNets."""
    return ResNet(
        nn.Bottleneck,
        [_RESNEXT_BLOCKS] * 3,
        groups=groups,
        width_per_group=width,
        stem="cifar",
        planes=(16, 32, 64),
        **options,  # type: ignore[arg-type]
    )


FAMILIES: dict[str, dict[str, Callable[..., torch_nn.Module]]] = {
    "wide": {f"WRN-{depth}-{k}": partial(wide_resnet, depth, k) for depth, k in _WIDE},
    "resnext": {f"ResNeXt-29 {g}x{d}d": partial(resnext, g, d) for g, d in _RESNEXT},
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--families", nargs="+", choices=list(FAMILIES), default=list(FAMILIES), help="default: all"
    )
    add_comparison_arguments(parser, "width_vs_depth_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    setting, seeds = comparison_setting(arguments)
    options = model_options(setting.data)
    networks = {
        name: partial(build_model, make, arguments, **options)
        for family in arguments.families
        for name, make in FAMILIES[family].items()
    }
    logs = compare(networks, setting, seeds, arguments.out, resume=arguments.resume)

    results = last_epochs(logs)
    channels, height, width = setting.data.train_images.shape[1:]
    for name, make in networks.items():
        with torch.device("meta"):
            results[name] |= cost_of(make(), (channels, height, width))._asdict()
    report(arguments.out, setting, seeds, results)
    for name, row in results.items():
        print(f"{name}: {row['macs']:,} multiply-adds, {row['parameters']:,} parameters")
    panels = {
        family: {name: mean_log(logs[name]) for name in FAMILIES[family]}
        for family in arguments.families
    }
    error_curves(arguments.out / "curves.png", panels)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
