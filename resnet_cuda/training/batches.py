"""Endless random batches whose position can be saved, augmented and normalised."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from resnet_cuda.training.data import ImageData, Normalisation

_TEST_BATCH = 500


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to `padding` pixels, as crops of the padded image, and mirror images."""

    padding: int = 4
    flip: bool = True

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """images [N, C, H, W] -> the same shape, in channels_last (He et al. 2015, sec. 4.2).

        Random numbers are drawn on the CPU, so a seed means the same images on every device.
        """
        n, _, height, width = images.shape
        shift = torch.randint(2 * self.padding + 1, (2, n, 1), generator=generator)
        flipped = torch.rand(n, 1, generator=generator) < (0.5 if self.flip else 0.0)
        rows = shift[0] + torch.arange(height)
        columns = torch.arange(width).expand(n, width)
        columns = shift[1] + torch.where(flipped, width - 1 - columns, columns)
        padded = torch.nn.functional.pad(images, [self.padding] * 4)
        # One gather crops and flips; it puts the channels last.
        index = (torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :])
        image, row, column = (i.to(images.device) for i in index)
        return padded[image, :, row, column].permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Part:
    """One of `count` processes that share every batch."""

    rank: int = 0
    count: int = 1

    def of(self, batch: Tensor) -> Tensor:
        """This process's rows of a batch."""
        return batch[self.rank :: self.count]


ALONE = Part()


class Source(Protocol):
    """What a trainer trains on and is tested with; all processes draw the same numbers and each takes its part.

    Attributes:
        batch: images of one step, of all processes together.
        steps_per_epoch: whole batches of the training set.
        test_images: number of test images, of all processes together.
        identity: what a resumed run must have in common with the one that it goes on with.
    """

    batch: int
    steps_per_epoch: int
    test_images: int
    identity: dict[str, Any]

    def next(self) -> tuple[Tensor, Tensor]:
        """The next step's images [N, C, H, W] and labels [N], this process's part, on the device."""

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images and labels of this process."""

    def state_dict(self) -> dict[str, Any]:
        """What the next batch follows from."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on behind the batch after which `state` was taken."""


class RandomOrder:
    """Batches of indices; each epoch is a new random order, less an incomplete last batch.

    `generator` is for whatever else a batch draws, so that one state holds everything.

    Raises:
        ValueError: batch is larger than the data set, or cannot be split into equal parts.
    """

    def __init__(self, images: int, batch: int, seed: int, part: Part) -> None:
        if not 0 < batch <= images:
            raise ValueError(f"batch={batch}: expected 1 to {images}, the number of images")
        if batch % part.count:
            raise ValueError(f"batch={batch}: expected a multiple of the {part.count} processes")
        self.generator = torch.Generator().manual_seed(seed)
        self._images, self._batch = images, batch
        self._left = torch.empty(0, dtype=torch.int64)  # of this epoch

    def next(self) -> Tensor:
        """int64 [batch]."""
        if len(self._left) < self._batch:
            self._left = torch.randperm(self._images, generator=self.generator)
        indices, self._left = self._left[: self._batch], self._left[self._batch :]
        return indices

    def state_dict(self) -> dict[str, Any]:
        return {"left": self._left, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._left = state["left"]
        self.generator.set_state(state["generator"])


class ImagesInMemory:
    """A `Source` of images that fit on the device.

    Args:
        data: training and test images.
        batch: images of one step, of all processes together.
        device: where they are kept.
        normalise: makes the network's input; by default the per-pixel mean of the training images is subtracted.
        augment: changes the normalised training images, or None.
        seed: of the order and the augmentation.
        part: which images of every batch are this process's.

    Raises:
        ValueError: batch is larger than the data set, or cannot be split into equal parts.
    """

    def __init__(
        self,
        data: ImageData,
        batch: int,
        *,
        device: torch.device,
        normalise: Normalisation | None = None,
        augment: Augmentation | None = None,
        seed: int = 0,
        part: Part = ALONE,
    ) -> None:
        self._order = RandomOrder(len(data.train_images), batch, seed, part)
        self.batch, self.steps_per_epoch = batch, len(data.train_images) // batch
        self.test_images = len(data.test_images)
        self.identity = {
            "seed": seed,
            "augment": None if augment is None else asdict(augment),
            "images": len(data.train_images),
        }
        if normalise is None:
            normalise = Normalisation.per_pixel(data.train_images)
        self.data, self._normalise = data.to(device), normalise.to(device)
        self._augment, self._part = augment, part

    def network_input(self, images: Tensor) -> Tensor:
        """images [N, C, H, W] as stored -> normalised, float32, in channels_last."""
        x = self._normalise(images.to(self._normalise.mean.device))
        return x.contiguous(memory_format=torch.channels_last)

    def next(self) -> tuple[Tensor, Tensor]:
        """float32 [batch / part.count, C, H, W] and labels."""
        indices = self._order.next().to(self.data.train_images.device)
        images = self._normalise(self.data.train_images[indices])
        if self._augment is not None:
            images = self._augment(images, self._order.generator)
        mine = self._part.of(images).contiguous(memory_format=torch.channels_last)
        return mine, self._part.of(self.data.train_labels[indices])

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """float32 [500 or fewer, C, H, W] and labels."""
        images = self._part.of(self.data.test_images).split(_TEST_BATCH)
        labels = self._part.of(self.data.test_labels).split(_TEST_BATCH)
        for x, y in zip(images, labels, strict=True):
            yield self.network_input(x), y

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)
