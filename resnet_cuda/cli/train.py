"""Train a CIFAR network with its paper's recipe: checkpoints that resume, mixed precision, torchrun.

The data are the binary or the python version of CIFAR-10 or CIFAR-100, in the folder --data. Writes
checkpoint.pt, log.csv, summary.json and curves.png.
On several devices: torchrun --nproc-per-node N -m resnet_cuda train ...
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from resnet_cuda.models import list_models
from resnet_cuda.training import (
    Augmentation,
    ImagesInMemory,
    Normalisation,
    cifar_recipe,
    load_cifar,
)
from resnet_cuda.training.arguments import build_model, device_of, guarded
from resnet_cuda.training.distributed import process_group, this_part
from resnet_cuda.training.session import (
    add_training_arguments,
    changed_recipe,
    check_training_arguments,
    train_and_report,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    cifar = [name for name in list_models() if name.startswith(("cifar", "wrn"))]
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="CIFAR's batches")
    parser.add_argument(
        "--model",
        default="cifar_resnet20",
        metavar="NAME",
        help=f"one of {', '.join(cifar)} (default: %(default)s)",
    )
    add_training_arguments(parser, "train_output")


def run(arguments: argparse.Namespace) -> int:
    return guarded(_train, arguments)


def _train(arguments: argparse.Namespace) -> int:
    check_training_arguments(arguments)
    data = load_cifar(arguments.data)
    images = len(data.train_images)
    recipe = changed_recipe(cifar_recipe(arguments.model, images), arguments, images)
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
        train_and_report(model, source, recipe, device, arguments)
    return 0


def _normalisation(model: str, images: torch.Tensor) -> Normalisation:
    """As in the paper that the model comes from."""
    if model.startswith("wrn"):
        return Normalisation.per_channel(images)
    return Normalisation.per_pixel(images)
