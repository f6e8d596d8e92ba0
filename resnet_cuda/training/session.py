"""One network's training from the command line: what it takes, and what it leaves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from resnet_cuda.training.arguments import add_run_arguments
from resnet_cuda.training.batches import Source
from resnet_cuda.training.comparison import refuse_to_overwrite
from resnet_cuda.training.distributed import this_part
from resnet_cuda.training.figures import error_curves
from resnet_cuda.training.progress import Advance, progress_bar
from resnet_cuda.training.recipe import Recipe
from resnet_cuda.training.records import environment, write_csv, write_json
from resnet_cuda.training.trainer import Trainer


def add_training_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """What changes a recipe, --sync-bn and --checkpoint-every, beside the arguments of every run."""
    parser.add_argument("--iterations", type=int, help="default: the paper's; milestones scale")
    parser.add_argument("--epochs", type=int, help="the same in epochs")
    parser.add_argument("--batch", type=int, help="images per step, of all processes together")
    parser.add_argument("--lr", type=float, help="the first learning rate")
    parser.add_argument("--sync-bn", action="store_true", help="statistics over all processes")
    parser.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="iterations; default: an epoch"
    )
    add_run_arguments(parser, out)


def check_training_arguments(arguments: argparse.Namespace) -> None:
    """What can be known to be wrong before the data are read.

    Raises:
        ValueError: --checkpoint-every is not positive, or --out holds another run's checkpoint.
    """
    every = arguments.checkpoint_every
    if every is not None and every < 1:
        raise ValueError(f"checkpoint_every={every}: expected at least 1")
    if arguments.epochs is not None and arguments.iterations is not None:
        raise ValueError("epochs and iterations are both given: expected at most one of them")
    refuse_to_overwrite(checkpoint_path(arguments), arguments.resume)


def changed_recipe(recipe: Recipe, arguments: argparse.Namespace, images: int) -> Recipe:
    """The recipe with what the arguments change, for so many training images.

    Raises:
        ValueError: a value makes no sense.
    """
    recipe = recipe.changed(batch=arguments.batch, lr=arguments.lr)
    iterations = arguments.iterations
    if arguments.epochs is not None:
        iterations = arguments.epochs * max(1, images // recipe.batch)
    return recipe.changed(iterations)


def checkpoint_path(arguments: argparse.Namespace) -> Path:
    """Where the run's checkpoint lies."""
    out: Path = arguments.out
    return out / "checkpoint.pt"


def train_and_report(
    model: nn.Module,
    source: Source,
    recipe: Recipe,
    device: torch.device,
    arguments: argparse.Namespace,
) -> None:
    """Trains to the end, from the checkpoint with --resume; writes log.csv, summary.json and curves.png.

    Raises:
        ValueError: there is no checkpoint to resume from, or it is another run's.
        DivergedError: the loss became infinite or not a number.
    """
    trainer = Trainer(
        model,
        source,
        recipe,
        device=device,
        name=arguments.model,
        amp=arguments.amp,
        sync_batch_norm=arguments.sync_bn,
    )
    out: Path = arguments.out
    checkpoint = checkpoint_path(arguments)
    if arguments.resume:
        trainer.resume(checkpoint)
    chief = this_part().rank == 0
    remaining = trainer.recipe.iterations - trainer.iteration
    bar: AbstractContextManager[Advance] = (
        progress_bar(trainer.name, remaining) if chief else _no_bar()
    )
    with bar as advance:
        trainer.run(
            checkpoint=checkpoint,
            checkpoint_every=arguments.checkpoint_every,
            on_step=advance,
            on_epoch=lambda log: write_csv(out / "log.csv", log) if chief else None,
        )
    if chief:
        _report(trainer, arguments)


def _report(trainer: Trainer, arguments: argparse.Namespace) -> None:
    out: Path = arguments.out
    name, log = trainer.name, trainer.log
    write_csv(out / "log.csv", log)
    best = min(row["test_error"] for row in log)
    summary = {
        "model": name,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seed": arguments.seed,
        "amp": arguments.amp,
        "fused": not arguments.plain,
        "recipe": asdict(trainer.recipe),
        "last": log[-1],
        "best_test_error": best,
        "seconds": sum(row["seconds"] for row in log),
        "environment": environment(trainer.device),
    }
    write_json(out / "summary.json", summary)
    print(
        f"{name}: training error {log[-1]['train_error']:.2%}, test error "
        f"{log[-1]['test_error']:.2%} (best {best:.2%})"
    )
    error_curves(out / "curves.png", {name: {name: log}})
    print(f"log, summary and curves: {out}")


@contextmanager
def _no_bar() -> Iterator[Advance]:
    yield lambda note: None
