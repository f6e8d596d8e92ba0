"""The arguments that every experiment takes, and what they mean."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_cuda.fuse import unfuse
from resnet_cuda.models import create_model
from resnet_cuda.training.batches import Augmentation
from resnet_cuda.training.cifar import load_cifar
from resnet_cuda.training.comparison import Setting
from resnet_cuda.training.data import ImageData
from resnet_cuda.training.digits import load_digits
from resnet_cuda.training.recipe import DIGITS_RECIPE, Recipe
from resnet_cuda.training.trainer import AMP_DTYPES


def add_run_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """--out, --seed, --device, --amp, --plain, --threads and --resume; `out` is the default folder."""
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=Path(out), help="default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument(
        "--device", help='such as "cpu" or "cuda:1"; default: a GPU if there is one'
    )
    parser.add_argument(
        "--amp", choices=sorted(AMP_DTYPES), default="none", help="mixed precision (default none)"
    )
    parser.add_argument("--plain", action="store_true", help="plain torch modules, nothing fused")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")


def add_comparison_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """--data, --seeds, --iterations and --lr beside those of every run."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="CIFAR's binary or python version; default: digits",
    )
    parser.add_argument("--seeds", type=int, default=1, help="runs of each network (default 1)")
    recipe = f"{DIGITS_RECIPE.iterations}, with --data the paper's {Recipe().iterations}"
    parser.add_argument("--iterations", type=int, help=f"default: {recipe}")
    rate = f"{DIGITS_RECIPE.lr:g}, with --data the paper's {Recipe().lr:g}"
    parser.add_argument("--lr", type=float, help=f"the first learning rate; default: {rate}")
    add_run_arguments(parser, out)


def comparison_setting(arguments: argparse.Namespace) -> tuple[Setting, range]:
    """Data, recipe and device of a comparison, and its seeds.

    Raises:
        ValueError: an argument makes no sense, or the folder does not hold CIFAR.
        ImportError: scikit-learn is missing, and --data does not name other images.
    """
    if arguments.seeds < 1:
        raise ValueError(f"seeds={arguments.seeds}: expected at least 1")
    device = device_of(arguments)
    data, augment = load_data(arguments)
    recipe = DIGITS_RECIPE if arguments.data is None else Recipe()
    recipe = recipe.changed(arguments.iterations, lr=arguments.lr)
    setting = Setting(data, recipe, device, augment, arguments.amp)
    return setting, range(arguments.seed, arguments.seed + arguments.seeds)


def model_options(data: ImageData) -> dict[str, Any]:
    """What a CIFAR model must be told to take these images."""
    return {"num_classes": len(data.classes), "in_channels": data.train_images.shape[1]}


def load_data(arguments: argparse.Namespace) -> tuple[ImageData, Augmentation | None]:
    """The images that --data names, and how they are augmented.

    Raises:
        ValueError: the folder does not hold CIFAR.
        ImportError: scikit-learn is missing, and --data does not name other images.
    """
    if arguments.data is not None:
        return load_cifar(arguments.data), Augmentation()
    try:
        return load_digits(), None
    except ImportError as error:
        raise ImportError(
            "scikit-learn is missing, which has the digits: python -m pip install scikit-learn; "
            "or name CIFAR's batches by --data"
        ) from error


def device_of(arguments: argparse.Namespace) -> torch.device:
    """The device that the arguments ask for; sets the number of threads.

    Raises:
        ValueError: there is no such device, or the number of threads is not positive.
    """
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ValueError(f"threads={arguments.threads}: expected at least 1")
        torch.set_num_threads(arguments.threads)
    name = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: {error}") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f"device={name!r}: there are {gpus} CUDA devices")
    return device


def build_model(
    make: str | Callable[..., nn.Module], arguments: argparse.Namespace, **options: Any
) -> nn.Module:
    """A model, by name or by what makes it, fused unless --plain, with weights from torch's generator as it is.

    Raises:
        ValueError: there is no model of this name.
    """
    model = create_model(make, **options) if isinstance(make, str) else make(**options)
    return unfuse(model, inplace=True) if arguments.plain else model


def run_experiment(
    run: Callable[[argparse.Namespace], int],
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None = None,
) -> int:
    """Parses `argv`, runs, and turns what a user can put right into a message and exit code 2."""
    return guarded(run, parser.parse_args(argv))


def guarded(run: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """run(arguments), where a wrong argument or file becomes a message and exit code 2."""
    try:
        return run(arguments)
    except (ValueError, RuntimeError, ImportError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
