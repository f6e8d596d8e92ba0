"""A folder of images as ImageNet has it, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


def make_image_folder(folder: Path, classes: int = 2, train: int = 4, val: int = 2) -> None:
    """PNGs of noise, 40 to 60 pixels wide and high, so many of each class."""
    pillow = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for label in range(classes):
            (folder / part / f"class{label}").mkdir(parents=True)
            for i in range(count):
                height, width = generator.integers(40, 60, 2)
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                path = folder / part / f"class{label}" / f"{i}.png"
                pillow.fromarray(pixels).save(path)
