"""Images that fit into memory, and how their pixels become a network's input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 1000  # images at a time in float64


class ImageData(NamedTuple):
    """images uint8 [N, C, H, W], labels int64 [N], the classes' names in the labels' order."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    def to(self, device: torch.device) -> ImageData:
        """The same with all tensors on `device`."""
        return ImageData(
            self.train_images.to(device),
            self.train_labels.to(device),
            self.test_images.to(device),
            self.test_labels.to(device),
            self.classes,
        )


class Normalisation(NamedTuple):
    """x -> (x - mean) / std; both float32 [C, H, W] or [C, 1, 1]."""

    mean: Tensor
    std: Tensor

    @staticmethod
    def per_pixel(images: Tensor) -> Normalisation:
        """Each pixel's mean over images [N, C, H, W] (He et al. 2015, sec. 4.2), and one std for all pixels.

        Behind a batch norm the std changes nothing but how weight decay acts; it puts other inputs on the same scale.
        """
        mean, variance = _moments(images)
        return Normalisation(mean.float(), variance.mean().sqrt().float().expand(len(mean), 1, 1))

    @staticmethod
    def per_channel(images: Tensor) -> Normalisation:
        """Mean and std of each channel of images [N, C, H, W] (Zagoruyko and Komodakis 2016, sec. 3)."""
        mean, variance = _moments(images)
        centre = mean.mean((1, 2), keepdim=True)
        spread = (variance + (mean - centre) ** 2).mean((1, 2), keepdim=True)
        return Normalisation(centre.float(), spread.sqrt().float())

    def to(self, device: torch.device) -> Normalisation:
        """The same with both tensors on `device`."""
        return Normalisation(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """images [N, C, H, W] of any dtype -> float32 [N, C, H, W]."""
        return (images.float() - self.mean) / self.std


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's mean and variance over the images, float64 [C, H, W]."""
    chunks = images.split(_CHUNK)
    mean = torch.stack([c.double().sum(0) for c in chunks]).sum(0) / len(images)
    squares = torch.stack([((c.double() - mean) ** 2).sum(0) for c in chunks]).sum(0)
    return mean, squares / len(images)
