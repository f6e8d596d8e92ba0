"""CIFAR-10 and -100 from their original files (Krizhevsky 2009), the binary or the python version, read without
running what is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from resnet_cuda.training._batch_pickle import read_values
from resnet_cuda.training.data import ImageData

_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


class CifarFormat(NamedTuple):
    """The files of one version of one data set."""

    name: str
    train: tuple[str, ...]
    test: str
    meta: str
    # Of the python version: the keys of a file's labels and of the classes.
    labels: bytes = b""
    classes: bytes = b""
    # Of the binary version: an image's label bytes, of which the last one counts.
    label_bytes: int = 0

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.meta)


_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = CifarFormat(
    "the python version of CIFAR-10",
    _BATCHES,
    "test_batch",
    "batches.meta",
    labels=b"labels",
    classes=b"label_names",
)
CIFAR100 = CifarFormat(
    "the python version of CIFAR-100",
    ("train",),
    "test",
    "meta",
    labels=b"fine_labels",
    classes=b"fine_label_names",
)
CIFAR10_BINARY = CifarFormat(
    "the binary version of CIFAR-10",
    tuple(f"{name}.bin" for name in _BATCHES),
    "test_batch.bin",
    "batches.meta.txt",
    label_bytes=1,
)
CIFAR100_BINARY = CifarFormat(
    "the binary version of CIFAR-100",
    ("train.bin",),
    "test.bin",
    "fine_label_names.txt",
    label_bytes=2,
)
_FORMATS = (CIFAR10_BINARY, CIFAR100_BINARY, CIFAR10, CIFAR100)


def load_cifar(folder: Path) -> ImageData:
    """CIFAR-10 or CIFAR-100, whichever the folder holds.

    Args:
        folder: what the archive of the "binary version" or of the "python version" unpacks to.

    Raises:
        ValueError: a file is missing, damaged or of another shape; the message names the file and what was expected.
    """
    layout = _format_of(folder)
    classes = _classes(folder / layout.meta, layout)
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
    """Writes generated images in the binary version of CIFAR-10: a pattern for each class, under noise.

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
    layout = CIFAR10_BINARY
    files = dict.fromkeys(layout.train, train_images // 5) | {layout.test: test_images}
    for name, count in files.items():
        labels = generator.integers(0, 10, count)
        noise = generator.normal(0, 40, (count, _PIXELS))
        data = np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8)
        records = np.concatenate((labels[:, None].astype(np.uint8), data), axis=1)
        (folder / name).write_bytes(records.tobytes())
    (folder / layout.meta).write_text("".join(f"class {i}\n" for i in range(10)))


def _format_of(folder: Path) -> CifarFormat:
    if not folder.is_dir():
        raise ValueError(f"data={str(folder)!r}: not a folder")
    for layout in _FORMATS:
        missing = [name for name in layout.files if not (folder / name).is_file()]
        if not missing:
            return layout
        if len(missing) < len(layout.files) / 2:
            raise ValueError(
                f"data={str(folder)!r}: {', '.join(missing)} missing; expected {layout.name} "
                f"({', '.join(layout.files)})"
            )
    expected = "; ".join(f"{layout.name}: {', '.join(layout.files)}" for layout in _FORMATS)
    raise ValueError(f"data={str(folder)!r}: not a folder of CIFAR; expected {expected}")


def _classes(path: Path, layout: CifarFormat) -> tuple[str, ...]:
    if layout.label_bytes:
        return tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
    names = _field(path, _read(path), layout.classes, list)
    return tuple(name.decode() for name in names)


def _batch(path: Path, layout: CifarFormat, classes: int) -> tuple[Tensor, Tensor]:
    """images uint8 [N, 3, 32, 32] and labels int64 [N] of one file."""
    if layout.label_bytes:
        data, raw_labels = _records(path, layout)
        return _checked(path, data, raw_labels, classes)
    content = _read(path)
    data = _field(path, content, b"data", np.ndarray)
    return _checked(path, data, _field(path, content, layout.labels, list), classes)


def _records(path: Path, layout: CifarFormat) -> tuple[np.ndarray[Any, Any], list[int]]:
    """Pixels [N, 3072] and labels of the binary version."""
    raw, size = path.read_bytes(), layout.label_bytes + _PIXELS
    if not raw or len(raw) % size:
        raise ValueError(f"{path}: {len(raw)} bytes, expected a multiple of {size}, an image's")
    records = np.frombuffer(raw, np.uint8).reshape(-1, size)
    return records[:, layout.label_bytes :], records[:, layout.label_bytes - 1].tolist()


def _checked(
    path: Path, data: np.ndarray[Any, Any], raw_labels: list[Any], classes: int
) -> tuple[Tensor, Tensor]:
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
        content = read_values(path.read_bytes())
    except Exception as error:  # damaged bytes can fail in any way
        raise ValueError(
            f"{path}: damaged, or not a batch of CIFAR ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, expected a dict")
    return content
