"""Train a CIFAR network with its paper's recipe: checkpoints that resume, mixed precision, torchrun.

The data are the original python batches of CIFAR-10 or CIFAR-100, which --data names. Writes checkpoint.pt, log.csv,
summary.json and curves.png. On several devices: torchrun --nproc-per-node N -m resnet_cuda train ...
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from resnet_cuda.models import list_models
from resnet_cuda.training import (
    Augmentation,
    ImagesInMemory,
    Normalisation,
    Recipe,
    Trainer,
    cifar_recipe,
)
from resnet_cuda.training.arguments import (
    add_run_arguments,
    build_model,
    device_of,
    guarded,
)
from resnet_cuda.training.cifar import load_cifar
from resnet_cuda.training.comparison import refuse_to_overwrite
from resnet_cuda.training.distributed import process_group, this_part
from resnet_cuda.training.figures import error_curves
from resnet_cuda.training.progress import Advance, progress_bar
from resnet_cuda.training.records import environment, write_csv, write_json
from resnet_cuda.training.trainer import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cifar = [name for name in list_models() if name.startswith(("cifar", "wrn"))]
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR's batches")
    parser.add_argument(
        "--model",
        default="cifar_resnet20",
        metavar="NAME",
        help=f"one of {', '.join(cifar)} (default: %(default)s)",
    )
    parser.add_argument("--iterations", type=int, help="default: the paper's; milestones scale")
    parser.add_argument("--epochs", type=int, help="the same in epochs")
    parser.add_argument("--batch", type=int, help="images per step, of all processes together")
    parser.add_argument("--lr", type=float, help="the first learning rate")
    parser.add_argument("--sync-bn", action="store_true", help="statistics over all processes")
    parser.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="iterations; default: an epoch"
    )
    add_run_arguments(parser, "train_output")


def run(arguments: argparse.Namespace) -> int:
    return guarded(_train, arguments)


def _train(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    checkpoint = out / "checkpoint.pt"
    refuse_to_overwrite(checkpoint, arguments.resume)
    every = arguments.checkpoint_every
    if every is not None and every < 1:
        raise ValueError(f"checkpoint_every={every}: expected at least 1")
    data = load_cifar(arguments.data)
    recipe = _recipe(arguments, len(data.train_images))
    with process_group(device_of(arguments)) as device:
        torch.manual_seed(arguments.seed)
        model = build_model(arguments.model, arguments, num_classes=len(data.classes))
        source = ImagesInMemory(
            data,
            recipe.batch,
            device=device,
            normalise=_normalisation(arguments.model, data.train_images),
            augment=Augmentation(),
            seed=arguments.seed,
            part=this_part(),
        )
        trainer = Trainer(
            model,
            source,
            recipe,
            device=device,
            amp=arguments.amp,
            sync_batch_norm=arguments.sync_bn,
        )
        if arguments.resume:
            trainer.resume(checkpoint)
        chief = this_part().rank == 0
        remaining = recipe.iterations - trainer.iteration
        bar: AbstractContextManager[Advance] = (
            progress_bar(arguments.model, remaining) if chief else _no_bar()
        )
        with bar as advance:
            trainer.run(
                checkpoint=checkpoint,
                checkpoint_every=every,
                on_step=advance,
                on_epoch=lambda log: write_csv(out / "log.csv", log) if chief else None,
            )
        if chief:
            _report(arguments, recipe, trainer)
    return 0


def _recipe(arguments: argparse.Namespace, images: int) -> Recipe:
    """The paper's recipe, with what the arguments change."""
    if arguments.epochs is not None and arguments.iterations is not None:
        raise ValueError("epochs and iterations are both given: expected at most one of them")
    recipe = cifar_recipe(arguments.model, images).changed(batch=arguments.batch, lr=arguments.lr)
    iterations = arguments.iterations
    if arguments.epochs is not None:
        iterations = arguments.epochs * max(1, images // recipe.batch)
    return recipe.changed(iterations)


def _normalisation(model: str, images: torch.Tensor) -> Normalisation:
    """As in the paper that the model comes from."""
    if model.startswith("wrn"):
        return Normalisation.per_channel(images)
    return Normalisation.per_pixel(images)


def _report(arguments: argparse.Namespace, recipe: Recipe, trainer: Trainer) -> None:
    out: Path = arguments.out
    last: Row = trainer.log[-1]
    summary = {
        "model": arguments.model,
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "seed": arguments.seed,
        "amp": arguments.amp,
        "fused": not arguments.plain,
        "recipe": asdict(recipe),
        "last": last,
        "best_test_error": min(row["test_error"] for row in trainer.log),
        "seconds": sum(row["seconds"] for row in trainer.log),
        "environment": environment(trainer.device),
    }
    write_json(out / "summary.json", summary)
    print(
        f"{arguments.model}: training error {last['train_error']:.2%}, test error "
        f"{last['test_error']:.2%} (best {summary['best_test_error']:.2%})"
    )
    error_curves(out / "curves.png", {arguments.model: {arguments.model: trainer.log}})
    print(f"log, summary and curves: {out}")


@contextmanager
def _no_bar() -> Iterator[Advance]:
    yield lambda note: None
