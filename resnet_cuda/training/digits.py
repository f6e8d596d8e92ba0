"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import torch

from resnet_cuda.training.data import ImageData

_TEST_IMAGES = 360


def load_digits() -> ImageData:
    """1,437 training and 360 test images [1, 8, 8] with values from 0 to 16, split by a fixed seed.

    Raises:
        ImportError: scikit-learn, which they ship inside, is missing.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    raw = sklearn_digits()
    images = torch.from_numpy(raw.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    split = _TEST_IMAGES
    classes = tuple(str(digit) for digit in range(10))
    return ImageData(images[split:], labels[split:], images[:split], labels[:split], classes)
