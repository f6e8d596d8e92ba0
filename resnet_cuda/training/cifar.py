"""CIFAR-10 and -100 from their original python batches (Krizhevsky 2009), read without running what is in them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnet_cuda.training.data import ImageData

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class CifarFormat(NamedTuple):
    """The files of one data set, and the keys in them."""

    name: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    classes: bytes


CIFAR10 = CifarFormat(
    "CIFAR-10",
    tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test_batch",
    "batches.meta",
    b"labels",
    b"label_names",
)
CIFAR100 = CifarFormat("CIFAR-100", ("train",), "test", "meta", b"fine_labels", b"fine_label_names")


def load_cifar(folder: Path) -> ImageData:
    """CIFAR-10 or CIFAR-100, whichever the folder holds.

    Args:
        folder: what the archive of the "python version" unpacks to.

    Raises:
        ValueError: a file is missing, damaged or of another shape; the message names the file and what was expected.
    """
    layout = _format_of(folder)
    raw_classes = _field(folder / layout.meta, _read(folder / layout.meta), layout.classes, list)
    classes = tuple(name.decode() for name in raw_classes)
    train = [_batch(folder / name, layout, len(classes)) for name in layout.train]
    test_images, test_labels = _batch(folder / layout.test, layout, len(classes))
    return ImageData(
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        test_images,
        test_labels,
        classes,
    )


def make_cifar_like(
    folder: Path, train_images: int = 500, test_images: int = 100, seed: int = 0
) -> None:
    """Writes generated images in CIFAR-10's file format: a pattern for each class, under noise.

    They can be learned, which makes them good for trying a training run without the real data.

    Raises:
        ValueError: train_images cannot be split into five equal batches.
    """
    if train_images < 5 or train_images % 5:
        raise ValueError(f"train_images={train_images}: expected a positive multiple of 5")
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    # Coarse enough to be seen in a shifted crop.
    coarse = generator.integers(0, 256, (10, 3, 2, 2))
    patterns = coarse.repeat(16, axis=2).repeat(16, axis=3).reshape(10, _PIXELS)
    files = dict.fromkeys(CIFAR10.train, train_images // 5) | {CIFAR10.test: test_images}
    for name, count in files.items():
        labels = generator.integers(0, 10, count)
        noise = generator.normal(0, 40, (count, _PIXELS))
        data = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        _write(folder / name, {b"data": data, CIFAR10.labels: labels.tolist()})
    names = [f"class {i}".encode() for i in range(10)]
    _write(folder / CIFAR10.meta, {CIFAR10.classes: names})


def _format_of(folder: Path) -> CifarFormat:
    if not folder.is_dir():
        raise ValueError(f"data={str(folder)!r}: not a folder")
    for layout in (CIFAR10, CIFAR100):
        files = (*layout.train, layout.test, layout.meta)
        present = [name for name in files if (folder / name).is_file()]
        missing = [name for name in files if name not in present]
        if not missing:
            return layout
        if len(present) > len(missing):
            raise ValueError(
                f"data={str(folder)!r}: {', '.join(missing)} missing; expected the python version "
                f"of {layout.name} ({', '.join(files)})"
            )
    raise ValueError(
        f"data={str(folder)!r}: not a folder of CIFAR's python version; expected "
        f"{', '.join((*CIFAR10.train, CIFAR10.test, CIFAR10.meta))} (CIFAR-10) or "
        f"{', '.join((*CIFAR100.train, CIFAR100.test, CIFAR100.meta))} (CIFAR-100)"
    )


def _batch(path: Path, layout: CifarFormat, classes: int) -> tuple[Tensor, Tensor]:
    """images uint8 [N, 3, 32, 32] and labels int64 [N] of one file."""
    content = _read(path)
    data = _field(path, content, b"data", np.ndarray)
    raw_labels = _field(path, content, layout.labels, list)
    if data.ndim != 2 or data.shape[1] != _PIXELS or data.dtype != np.uint8:
        raise ValueError(
            f"{path}: data is {data.dtype} {list(data.shape)}, expected uint8 [images, {_PIXELS}]"
        )
    if len(raw_labels) != len(data):
        raise ValueError(f"{path}: {len(raw_labels)} labels for {len(data)} images")
    wrong = [v for v in raw_labels if not isinstance(v, int) or not 0 <= v < classes]
    if wrong:
        raise ValueError(f"{path}: label {wrong[0]!r}, expected integers from 0 to {classes - 1}")
    return torch.tensor(data).reshape(-1, *_SHAPE), torch.tensor(raw_labels, dtype=torch.int64)


def _field(path: Path, content: dict[Any, Any], key: bytes, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{path}: {found} under {key!r}, expected a {kind.__name__}")
    return value


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _BatchUnpickler(file, encoding="bytes").load()
    except Exception as error:  # damaged bytes can fail in any way
        raise ValueError(
            f"{path}: damaged, or not a batch of CIFAR ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict")
    return content


def _write(path: Path, content: dict[bytes, Any]) -> None:
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)  # the original's


def _latin1(text: str, encoding: str) -> bytes:
    """Stands for `_codecs.encode`, by which protocol 2 stores bytes; the original would look up any codec."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} is not one that a batch needs")
    return text.encode(encoding)


# A pickle is a program: it may import any function and call it. A batch is an array, a list and a few
# strings, so these are all the names that one needs, and every other name is refused before it is imported.
_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _latin1,
    # numpy's own function for rebuilding an array, under its names before and since numpy 2.
    **{
        (module, "_reconstruct"): np.empty(0).__reduce__()[0]  # type: ignore[misc]
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
    },
}


class _BatchUnpickler(pickle.Unpickler):
    """Reads a batch and refuses every other pickle."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no batch needs"
            ) from None
