"""Train ImageNet's networks as He et al. 2015, sec. 3.4, and test them by one crop, ten, or at several scales.

--data has the folders train and val with one folder of images per class. Training: scale jitter, crops of 224 pixels
and their mirror images, without colour augmentation; the rate falls on plateaus, or with --schedule step at epochs 30
and 60 of 90. Writes checkpoint.pt, log.csv, summary.json and curves.png into --out. With --test, instead, the errors of
--checkpoints, together as an ensemble, go into test.json. Needs Pillow. On several devices: torchrun.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from resnet_cuda.training import load_checkpoint
from resnet_cuda.training.arguments import build_model, device_of, run_experiment
from resnet_cuda.training.distributed import process_group, this_part
from resnet_cuda.training.image_folder import ImageFolder, find_images
from resnet_cuda.training.progress import progress_bar
from resnet_cuda.training.recipe import imagenet_recipe
from resnet_cuda.training.records import environment, write_json
from resnet_cuda.training.scores import classification_errors
from resnet_cuda.training.session import (
    add_training_arguments,
    changed_recipe,
    check_training_arguments,
    train_and_report,
)
from resnet_cuda.training.views import SCALES, Views, single_crop, ten_crops, whole_images


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="train and val")
    parser.add_argument("--model", default="resnet50", metavar="NAME", help="default: %(default)s")
    parser.add_argument("--schedule", choices=("plateau", "step"), default="plateau")
    parser.add_argument("--size", type=int, default=224, help="of the crops (default %(default)s)")
    parser.add_argument(
        "--jitter",
        type=int,
        nargs=2,
        default=(256, 480),
        metavar=("LOW", "HIGH"),
        help="shorter side of the images that training crops (default 256 480)",
    )
    parser.add_argument("--workers", type=int, default=8, help="threads that read (default 8)")
    parser.add_argument(
        "--test", choices=("single", "ten", "multiscale"), help="test --checkpoints, do not train"
    )
    parser.add_argument(
        "--scales",
        type=int,
        nargs="+",
        default=SCALES,
        help=f"of --test multiscale (default {' '.join(map(str, SCALES))})",
    )
    parser.add_argument("--checkpoints", type=Path, nargs="+", metavar="FILE", help="an ensemble")
    add_training_arguments(parser, "imagenet_output")
    return parser


def run(arguments: argparse.Namespace) -> int:
    return _test(arguments) if arguments.test else _train(arguments)


def _train(arguments: argparse.Namespace) -> int:
    check_training_arguments(arguments)
    train = find_images(arguments.data / "train")
    test = find_images(arguments.data / "val", train.classes)
    images = len(train.paths)
    recipe = imagenet_recipe(images, arguments.schedule == "plateau")
    recipe = changed_recipe(recipe, arguments, images)
    with process_group(device_of(arguments)) as device:
        torch.manual_seed(arguments.seed)
        model = build_model(arguments.model, arguments, num_classes=len(train.classes))
        source = ImageFolder(
            train,
            test,
            recipe.batch,
            device=device,
            size=arguments.size,
            scales=tuple(arguments.jitter),
            seed=arguments.seed,
            part=this_part(),
            workers=arguments.workers,
        )
        train_and_report(model, source, recipe, device, arguments)
    return 0


def _test(arguments: argparse.Namespace) -> int:
    if not arguments.checkpoints:
        raise ValueError("checkpoints: none given; --test expects at least one file")
    device = device_of(arguments)
    files = find_images(arguments.data / "val")
    models = [
        _loaded(path, arguments, len(files.classes), device) for path in arguments.checkpoints
    ]
    with progress_bar(f"testing, {arguments.test}", len(files.paths)) as advance:
        errors = classification_errors(models, files, _views(arguments), device, advance)
    summary = {
        "model": arguments.model,
        "networks": len(models),
        "views": arguments.test,
        **errors._asdict(),
        "environment": environment(device),
    }
    write_json(arguments.out / "test.json", summary)
    print(f"{arguments.test}: top-1 error {errors.top1:.2%}, top-5 error {errors.top5:.2%}")
    return 0


def _loaded(
    path: Path, arguments: argparse.Namespace, classes: int, device: torch.device
) -> nn.Module:
    model = build_model(arguments.model, arguments, num_classes=classes)
    state = load_checkpoint(path)
    try:
        # A training checkpoint, or the weights alone.
        model.load_state_dict(state.get("model", state))
    except RuntimeError as error:
        raise ValueError(f"checkpoint {path}: not of {arguments.model}: {error}") from error
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _views(arguments: argparse.Namespace) -> Views:
    size = arguments.size
    if arguments.test == "single":
        return lambda image: [single_crop(image, size)]
    if arguments.test == "ten":
        return partial(ten_crops, size=size)
    return partial(whole_images, scales=tuple(arguments.scales))


def main(argv: Sequence[str] | None = None) -> int:
    return run_experiment(run, make_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
