"""Images in one folder per class, read while the network trains. Needs Pillow."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from resnet_cuda.training.batches import ALONE, Part, RandomOrder
from resnet_cuda.training.views import Image, jittered_crop, open_image, single_crop

_SUFFIXES = (".jpeg", ".jpg", ".png")
_AHEAD = 3  # batches being read
_Result = TypeVar("_Result")


class ImageFiles(NamedTuple):
    """Paths, their classes as indices, the classes' names."""

    paths: list[Path]
    labels: list[int]
    classes: tuple[str, ...]


def find_images(folder: Path, classes: tuple[str, ...] | None = None) -> ImageFiles:
    """The .jpeg, .jpg and .png files of a folder with one folder per class, in alphabetical order.

    Args:
        folder: such as ImageNet's train or val.
        classes: the names that the folder must have; by default whatever it has.

    Raises:
        ValueError: the folder is missing, has no images, or other classes.
    """
    if not folder.is_dir():
        raise ValueError(f"data: {folder} is not a folder; expected one folder per class in it")
    found = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    if classes is not None and found != classes:
        different = sorted(set(found) ^ set(classes))
        raise ValueError(
            f"data: {folder} has {len(found)} classes, expected the {len(classes)} of the training "
            f"set; different: {', '.join(different[:5])}"
        )
    paths, labels = [], []
    for label, name in enumerate(found):
        files = sorted(p for p in (folder / name).iterdir() if p.suffix.lower() in _SUFFIXES)
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise ValueError(
            f"data: {folder} has no images; expected folder/class/*.jpeg, .jpg or .png"
        )
    return ImageFiles(paths, labels, found)


class ImageFolder:
    """A `Source` of image files: training with scale jitter, a random crop and its mirror image, tested with one crop.

    What an image's augmentation is depends on the seed and the image's place in the order alone, not on which thread
    reads it when.

    Args:
        train, test: the files.
        batch: images of one step, of all processes together.
        device: where the network is.
        size: pixels per side of the network's input.
        scales: the shorter side before the crop, lowest and highest.
        seed: of the order and the augmentation.
        part: which images of every batch are this process's.
        workers: threads that read.

    Raises:
        ValueError: batch is larger than the training set, or cannot be split into equal parts; scales below size.
    """

    def __init__(
        self,
        train: ImageFiles,
        test: ImageFiles,
        batch: int,
        *,
        device: torch.device,
        size: int = 224,
        scales: tuple[int, int] = (256, 480),
        seed: int = 0,
        part: Part = ALONE,
        workers: int = 8,
    ) -> None:
        if not size <= scales[0] <= scales[1]:
            raise ValueError(
                f"scales={scales}: expected a low and a high one, at least size={size}"
            )
        if workers < 1:
            raise ValueError(f"workers={workers}: expected at least 1")
        self._order = RandomOrder(len(train.paths), batch, seed, part)
        self.batch, self.steps_per_epoch = batch, len(train.paths) // batch
        self.test_images = len(test.paths)
        self.identity = {"seed": seed, "size": size, "scales": scales, "images": len(train.paths)}
        self._train, self._test, self._device = train, test, device
        self._size, self._scales, self._part = size, scales, part
        self._pool = ThreadPoolExecutor(workers)
        self._state = self._order.state_dict()
        # Batches on their way, each with the state behind it.
        self._coming: deque[tuple[dict[str, Any], Tensor, list[Future[Tensor]]]] = deque()

    def next(self) -> tuple[Tensor, Tensor]:
        """float32 [batch / part.count, 3, size, size] and labels.

        Raises:
            RuntimeError: an image cannot be read; the message names it.
        """
        while len(self._coming) < _AHEAD:
            self._coming.append(self._begin())
        self._state, indices, reading = self._coming.popleft()
        images = torch.stack([image.result() for image in reading])
        labels = torch.tensor([self._train.labels[i] for i in indices.tolist()])
        return self._sent(images), labels.to(self._device)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """float32 [batch / part.count or fewer, 3, size, size] and labels."""
        mine = self._part.of(torch.arange(self.test_images))

        def crop(image: Image) -> Tensor:
            return single_crop(image, self._size)

        for indices in mine.split(self.batch // self._part.count):
            paths = [self._test.paths[i] for i in indices.tolist()]
            images = list(self._pool.map(lambda path: read(path, crop), paths))
            labels = torch.tensor([self._test.labels[i] for i in indices.tolist()])
            yield self._sent(torch.stack(images)), labels.to(self._device)

    def state_dict(self) -> dict[str, Any]:
        return self._state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._coming.clear()
        self._order.load_state_dict(state)
        self._state = self._order.state_dict()

    def _begin(self) -> tuple[dict[str, Any], Tensor, list[Future[Tensor]]]:
        indices = self._order.next()
        seeds = torch.randint(2**31, indices.shape, generator=self._order.generator)
        indices, seeds = self._part.of(indices), self._part.of(seeds)
        reading = [
            self._pool.submit(self._augmented, self._train.paths[i], seed)
            for i, seed in zip(indices.tolist(), seeds.tolist(), strict=True)
        ]
        return self._order.state_dict(), indices, reading

    def _augmented(self, path: Path, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return read(path, lambda image: jittered_crop(image, self._size, self._scales, generator))

    def _sent(self, images: Tensor) -> Tensor:
        return images.to(self._device, memory_format=torch.channels_last)


def read(path: Path, view: Callable[[Image], _Result]) -> _Result:
    """view(the image), where a file that cannot be read is named.

    Raises:
        RuntimeError: the file is damaged, or no image.
    """
    try:
        return view(open_image(path))
    except OSError as error:
        raise RuntimeError(f"{path}: cannot be read as an image: {error}") from error
