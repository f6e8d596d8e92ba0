"""Endless random batches whose position can be saved, augmented and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resnet_cuda.training.data import Normalisation


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


class Batches:
    """Batches of `batch` images; each epoch is a new random order, less an incomplete last batch.

    All processes of a group draw the same numbers and each takes its part, so the images that a step sees do not
    depend on how many processes there are.

    Args:
        images, labels: [N, C, H, W] and [N], on the device that trains.
        batch: images of one step, of all processes together.
        normalise: makes the network's input.
        augment: changes the normalised images, or None.
        seed: of the order and the augmentation.
        part: which images of every batch are this process's.

    Raises:
        ValueError: batch is larger than the data set, or cannot be split into equal parts.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch: int,
        normalise: Normalisation,
        augment: Augmentation | None = None,
        seed: int = 0,
        part: Part = Part(),
    ) -> None:
        if not 0 < batch <= len(images):
            raise ValueError(f"batch={batch}: expected 1 to {len(images)}, the number of images")
        if batch % part.count:
            raise ValueError(f"batch={batch}: expected a multiple of the {part.count} processes")
        self.batch, self.steps_per_epoch = batch, len(images) // batch
        self._images, self._labels = images, labels
        self._normalise, self._augment, self._part = normalise.to(images.device), augment, part
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)  # what is left of this epoch

    def next(self) -> tuple[Tensor, Tensor]:
        """Images float32 [batch / part.count, C, H, W] and labels of the next step."""
        if len(self._order) < self.batch:
            self._order = torch.randperm(len(self._images), generator=self._generator)
        indices, self._order = self._order[: self.batch], self._order[self.batch :]
        indices = indices.to(self._images.device)
        images = self._normalise(self._images[indices])
        if self._augment is not None:
            images = self._augment(images, self._generator)
        mine = slice(self._part.rank, None, self._part.count)
        return images[mine].contiguous(memory_format=torch.channels_last), self._labels[indices][
            mine
        ]

    def state_dict(self) -> dict[str, Any]:
        """What the next batches follow from."""
        return {"order": self._order.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on behind the batch at which `state` was taken."""
        self._order = state["order"]
        self._generator.set_state(state["generator"])
