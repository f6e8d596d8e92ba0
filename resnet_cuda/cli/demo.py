"""Train a residual network on handwritten digits, plain and fused, and compare the two.

The same weights and the same batches go through plain torch modules and through `fuse(model)`; the table
at the end puts both beside each other. Without a GPU, one training step also runs through the CUDA
kernels' own source on the emulator.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

import resnet_cuda
from resnet_cuda.cli import _digits
from resnet_cuda.cli._digits import Digits, TrainingRun
from resnet_cuda.training.progress import progress_bar

# Gradients of a 20-layer network in fp32; a wrong kernel is off by whole digits, not by the sixth.
_TOLERANCE = 1e-3
_EMULATED_BATCH = 8


class Deviations(NamedTuple):
    """Largest differences, relative to the largest value of the tensor compared with."""

    outputs: float
    gradients: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder")


def run(arguments: argparse.Namespace) -> int:
    missing = _missing_packages()
    if missing:
        names = " and ".join(missing)
        print(f"The demo needs {names}: python -m pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.allow_tf32 = False  # both runs in full fp32
    torch.set_num_threads(1)  # the images are so small that threads would only wait for each other
    digits = _digits.load_digits(device)
    plain = _digits.digits_network(arguments.seed).to(device)
    fused = resnet_cuda.fuse(plain)
    start = copy.deepcopy(plain)

    print(
        f"{len(digits.train_labels)} training and {len(digits.test_labels)} test images of "
        f"8x8 pixels, on {_device_name(device)}, backend {resnet_cuda.backend()!r}"
    )
    runs = _train({"plain": plain, "fused": fused}, digits, arguments)

    images, labels = digits.train_images[: arguments.batch], digits.train_labels[: arguments.batch]
    at_start = compare(start, resnet_cuda.fuse(start), images, labels)
    at_end = compare(plain, resnet_cuda.fuse(plain), images, labels)
    _print_table(runs, at_start, at_end, device)
    picture = _save_picture(runs, arguments.output)
    print(f"loss curves: {picture}")

    agreed = max(*at_start, *at_end) <= _TOLERANCE
    if device.type == "cpu":
        agreed = emulated_step(start, images[:_EMULATED_BATCH], labels[:_EMULATED_BATCH]) and agreed
    if not agreed:
        print(f"FAILED: a deviation is larger than {_TOLERANCE:g}", file=sys.stderr)
    return 0 if agreed else 1


def compare(
    plain: nn.Module, fused: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> Deviations:
    """Logits and parameter gradients of `fused` against `plain`, one training-mode pass of copies of both."""
    outputs, gradients = _digits.loss_and_gradients(copy.deepcopy(plain), images, labels)
    outputs2, gradients2 = _digits.loss_and_gradients(copy.deepcopy(fused), images, labels)
    pairs = zip(gradients2, gradients, strict=True)
    return Deviations(
        _digits.deviation(outputs2, outputs), max(_digits.deviation(a, b) for a, b in pairs)
    )


def emulated_step(plain: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> bool:
    """One training step through the CUDA kernels' source on the CPU; prints how far it is from plain torch."""
    from resnet_cuda.testing import emulated

    print(f"\nno GPU: one step of {len(images)} images through the CUDA kernels' source, emulated")
    started = time.perf_counter()
    try:
        with emulated() as emulation:
            fused = resnet_cuda.fuse(plain)
            outputs, gradients = _digits.loss_and_gradients(fused, images, labels)
            launches = Counter(str(launch["kernel"]) for launch in emulation.launches())
    except RuntimeError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return False
    seconds = time.perf_counter() - started
    outputs2, gradients2 = _digits.loss_and_gradients(copy.deepcopy(plain), images, labels)
    losses = [F.cross_entropy(o, labels).item() for o in (outputs, outputs2)]
    largest = Deviations(
        _digits.deviation(outputs, outputs2),
        max(_digits.deviation(a, b) for a, b in zip(gradients, gradients2, strict=True)),
    )
    print(f"  loss {losses[0]:.7f}, plain torch {losses[1]:.7f}")
    print(
        f"  largest deviation of outputs {largest.outputs:.1e}, of gradients {largest.gradients:.1e}"
    )
    print(f"  {launches.total()} launches of {len(launches)} kernels in {seconds:.1f} s:")
    for name, count in sorted(launches.items()):
        print(f"    {count:4} {name}")
    return max(largest) <= _TOLERANCE


def _train(
    models: dict[str, nn.Module], digits: Digits, arguments: argparse.Namespace
) -> list[TrainingRun]:
    """Epoch by epoch in turn, so that a slow moment of the machine hits every model alike."""
    epochs, batch, seed = arguments.epochs, arguments.batch, arguments.seed
    trainers = {
        name: _digits.Trainer(model, digits, epochs, batch, seed) for name, model in models.items()
    }
    total = sum(epochs * trainer.steps_per_epoch for trainer in trainers.values())
    with progress_bar("training", total) as advance:
        for epoch in range(epochs):
            for name, trainer in trainers.items():
                prefix = f"{name}, epoch {epoch + 1}/{epochs}, "
                trainer.epoch(partial(_announce, advance, prefix))
    return [trainer.finish() for trainer in trainers.values()]


def _announce(advance: Callable[[str], None], prefix: str, note: str) -> None:
    advance(prefix + note)


def _print_table(
    runs: list[TrainingRun], start: Deviations, end: Deviations, device: torch.device
) -> None:
    memory = "peak memory" if device.type == "cuda" else "kept for backward"
    rows = [
        ("", "plain", "fused"),
        ("loss, last epoch", *(f"{r.epoch_losses[-1]:.6f}" for r in runs)),
        ("accuracy, training", *(f"{r.train_accuracy:.2%}" for r in runs)),
        ("accuracy, test", *(f"{r.test_accuracy:.2%}" for r in runs)),
        ("time per step", *(f"{statistics.median(r.step_seconds) * 1e3:.2f} ms" for r in runs)),
        (memory, *(f"{r.memory_bytes / 2**20:.2f} MiB" for r in runs)),
        ("deviation of outputs", "first weights", f"{start.outputs:.1e}"),
        ("", "trained weights", f"{end.outputs:.1e}"),
        ("deviation of gradients", "first weights", f"{start.gradients:.1e}"),
        ("", "trained weights", f"{end.gradients:.1e}"),
    ]
    print()
    for row in rows:
        print(f"{row[0]:24}{row[1]:>16}{row[2]:>16}")
    print("deviations: fused against plain, largest difference over largest value, same weights\n")


def _save_picture(runs: list[TrainingRun], folder: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    styles: tuple[dict[str, Any], ...] = (
        {"linewidth": 4, "alpha": 0.4},
        {"linewidth": 1.2, "linestyle": "--"},
    )
    for name, record, style in zip(("plain torch", "fused"), runs, styles, strict=True):
        axes.plot(range(1, len(record.losses) + 1), record.losses, label=name, **style)
    axes.set(xlabel="step", ylabel="training loss", yscale="log", title="The same network, twice")
    axes.grid(alpha=0.3)
    axes.legend()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "loss_curves.png"
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return path


def _missing_packages() -> list[str]:
    missing = []
    for module, package in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")):
        try:
            __import__(module)
        except ImportError:
            missing.append(package)
    return missing


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "one CPU thread"
