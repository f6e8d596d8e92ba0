"""How an image is shown to a network: crops for training, one, ten, or whole images at several scales for testing.

Sources: He et al. 2015, sec. 3.4; Krizhevsky et al. 2012 (ten crops); Simonyan and Zisserman 2015 (scale jitter, whole
images).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A PIL.Image.Image: Pillow is needed by those only who read images.
Image = Any
# An image -> the inputs that its scores are averaged over, each float32 [3, H, W].
Views = Callable[[Image], list[Tensor]]

SCALES = (224, 256, 384, 480, 640)
# Of ImageNet's training images, with values from 0 to 1: what torchvision's weights expect.
_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def open_image(path: Path) -> Image:
    """The file's image in RGB.

    Raises:
        ImportError: Pillow is missing.
        OSError: the file is missing, damaged or no image.
    """
    try:
        from PIL import Image as pillow
    except ImportError as error:
        raise ImportError(
            "Pillow is missing, which reads images: python -m pip install pillow"
        ) from error
    with pillow.open(path) as image:
        return image.convert("RGB")


def jittered_crop(
    image: Image, size: int, scales: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """float32 [3, size, size]: the shorter side becomes a random length between the scales, then a random crop, half of
    the time mirrored."""
    low, high = scales
    scale = int(torch.randint(low, high + 1, (1,), generator=generator))
    # The crop is chosen before the image is resized, so that no more than it is computed.
    ratio = min(image.size) / scale
    side = size * ratio
    free = torch.rand(2, generator=generator) * (torch.tensor(image.size) - side)
    left, top = free.clamp(min=0).tolist()
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    crop = normalised(image.resize((size, size), _bilinear(), box=box))
    return crop.flip(2) if torch.rand(1, generator=generator) < 0.5 else crop


def single_crop(image: Image, size: int = 224) -> Tensor:
    """float32 [3, size, size]: the middle of the image whose shorter side is 8/7 of the size, such as 256 for 224."""
    x = resized(image, size * 8 // 7)
    top, left = (x.shape[1] - size) // 2, (x.shape[2] - size) // 2
    return x[:, top : top + size, left : left + size]


def ten_crops(image: Image, size: int = 224) -> list[Tensor]:
    """Ten of float32 [3, size, size]: the corners and the middle, and their mirror images."""
    x = resized(image, size * 8 // 7)
    bottom, right = x.shape[1] - size, x.shape[2] - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [x[:, top : top + size, left : left + size] for top, left in corners]
    return crops + [crop.flip(2) for crop in crops]


def whole_images(image: Image, scales: tuple[int, ...] = SCALES) -> list[Tensor]:
    """The whole image with each of these shorter sides, and its mirror images, float32 [3, H, W].

    A network that ends with a global average pool and a linear layer is fully convolutional on them: the mean of the
    classifier over all places is the classifier of the mean.
    """
    images = [resized(image, scale) for scale in scales]
    return [view for x in images for view in (x, x.flip(2))]


def resized(image: Image, scale: int) -> Tensor:
    """float32 [3, H, W], normalised, with the shorter side of `scale` pixels."""
    ratio = scale / min(image.size)
    width, height = (max(scale, round(side * ratio)) for side in image.size)
    return normalised(image.resize((width, height), _bilinear()))


def normalised(image: Image) -> Tensor:
    """float32 [3, H, W] of an RGB image."""
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return (pixels.permute(2, 0, 1) - _MEAN) / _STD


def _bilinear() -> Any:
    from PIL import Image as pillow

    return pillow.Resampling.BILINEAR
