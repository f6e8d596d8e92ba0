"""What a network is shown of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from resnet_cuda.training.views import (
    Image,
    jittered_crop,
    normalised,
    resized,
    single_crop,
    ten_crops,
    whole_images,
)

pillow = pytest.importorskip("PIL.Image")


def gradient(width: int, height: int) -> Image:
    """Red tells the column, green the row."""
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([columns, rows, np.zeros_like(rows)], 2)
    return pillow.fromarray(pixels.astype(np.uint8))


def place(view: Tensor) -> tuple[float, float, bool]:
    """The middle of a view of `gradient` as fractions of width and height, and whether it is mirrored."""
    red = view[0] * 0.229 + 0.485
    green = view[1] * 0.224 + 0.456
    return red.mean().item(), green.mean().item(), bool(red[0, 0] > red[0, -1])


def test_the_shorter_side_gets_the_scale() -> None:
    assert resized(gradient(60, 40), 20).shape == (3, 20, 30)
    assert resized(gradient(40, 60), 20).shape == (3, 30, 20)


def test_pixels_are_normalised_as_torchvisions_weights_expect() -> None:
    x = normalised(pillow.new("RGB", (2, 2), (255, 0, 128)))
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (128 / 255 - 0.406) / 0.225]
    assert x[:, 0, 0].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_single_crop_is_the_middle() -> None:
    crop = single_crop(gradient(128, 64), 28)
    assert crop.shape == (3, 28, 28)
    x, y, mirrored = place(crop)
    assert (x, y) == pytest.approx((0.5, 0.5), abs=0.02) and not mirrored


def test_ten_crops_are_the_corners_the_middle_and_their_mirror_images() -> None:
    crops = ten_crops(gradient(64, 64), 28)  # of 32 x 32 pixels
    assert {tuple(crop.shape) for crop in crops} == {(3, 28, 28)}
    left, right = 14 / 32, 18 / 32
    expected = [(left, left), (right, left), (left, right), (right, right), (0.5, 0.5)] * 2
    for i, (crop, wanted) in enumerate(zip(crops, expected, strict=True)):
        x, y, mirrored = place(crop)
        assert (x, y) == pytest.approx(wanted, abs=0.02), f"crop {i} is elsewhere"
        assert mirrored == (i >= 5)


def test_whole_images_come_in_all_scales_and_mirrored() -> None:
    views = whole_images(gradient(60, 40), (20, 30))
    assert [tuple(v.shape) for v in views] == [(3, 20, 30)] * 2 + [(3, 30, 45)] * 2
    assert torch.equal(views[0].flip(2), views[1])


def test_training_crops_have_random_scales_places_and_mirror_images() -> None:
    image = gradient(120, 80)
    generator = torch.Generator().manual_seed(0)
    crops = [jittered_crop(image, 32, (40, 64), generator) for _ in range(300)]
    assert {tuple(crop.shape) for crop in crops} == {(3, 32, 32)}
    places = [place(crop) for crop in crops]
    # A crop of a scaled image shows 32 / scale of the shorter side.
    shown = [float((c[1, -1] - c[1, 0]).mean()) * 0.224 * 32 / 31 for c in crops]
    assert min(shown) == pytest.approx(32 / 64, abs=0.03)
    assert max(shown) == pytest.approx(32 / 40, abs=0.03)
    for axis in (0, 1):
        values = [p[axis] for p in places]
        assert min(values) < 0.35 and max(values) > 0.65, "crops do not reach the image's edges"
    assert 0.4 < sum(p[2] for p in places) / len(places) < 0.6
