"""The command line: `python -m resnet_cuda {info, check, demo, bench, explain, train}`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from resnet_cuda.cli import bench, check, demo, explain, info, train


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_cuda", description="Residual networks on fused CUDA kernels."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (info, check, demo, bench, explain, train):
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").strip().splitlines()[0]
        subparser = commands.add_parser(name, help=summary, description=summary)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    code: int = arguments.run(arguments)
    return code
