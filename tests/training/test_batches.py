"""What a network is shown: order, augmentation, normalisation, and the parts of several processes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from resnet_cuda.training import Augmentation, ImageData, ImagesInMemory, Normalisation
from resnet_cuda.training.batches import Part, RandomOrder

CPU = torch.device("cpu")
UNCHANGED = Normalisation(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


def numbered(count: int, batch: int, augment: Augmentation | None = None) -> ImagesInMemory:
    """Images whose pixels all are the image's number, which is its label too."""
    labels = torch.arange(count)
    images = labels[:, None, None, None].expand(count, 1, 4, 4).to(torch.uint8)
    data = ImageData(images, labels, images, labels, ())
    return ImagesInMemory(data, batch, device=CPU, normalise=UNCHANGED, augment=augment)


def test_an_epoch_shows_no_image_twice_and_the_next_has_another_order() -> None:
    batches = numbered(22, 5)
    epochs = [torch.cat([batches.next()[1] for _ in range(4)]).tolist() for _ in range(2)]
    assert batches.steps_per_epoch == 4
    for epoch in epochs:
        assert len(set(epoch)) == 20, "an image came twice in one epoch"
    assert epochs[0] != epochs[1]


def test_images_stay_with_their_labels() -> None:
    x, y = numbered(12, 6, Augmentation(padding=0)).next()
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x[:, 0, 0, 0].long(), y)


def test_every_augmented_image_is_a_crop_of_the_padded_one_or_its_mirror_image() -> None:
    images = torch.rand(64, 3, 5, 7)
    shown = Augmentation(padding=2)(images, torch.Generator().manual_seed(0))
    padded = F.pad(images, [2] * 4)
    seen = set()
    for image, source in zip(shown, padded, strict=True):
        matches = [
            (i, j, flip)
            for i in range(5)
            for j in range(5)
            for flip in (False, True)
            if torch.equal(image.flip(2) if flip else image, source[:, i : i + 5, j : j + 7])
        ]
        assert len(matches) == 1, "the image is no crop, or the crop was mixed with another image"
        seen.add(matches[0])
    assert {i for i, _, _ in seen} == {j for _, j, _ in seen} == set(range(5)), "a shift is missing"
    assert {flip for _, _, flip in seen} == {False, True}


def test_without_flipping_no_image_is_mirrored() -> None:
    images = torch.rand(32, 1, 4, 4)
    shown = Augmentation(padding=0, flip=False)(images, torch.Generator().manual_seed(0))
    assert torch.equal(shown, images)


def test_processes_share_the_batches_of_one(data: ImageData) -> None:
    def source(part: Part) -> ImagesInMemory:
        return ImagesInMemory(data, 8, device=CPU, augment=Augmentation(), seed=3, part=part)

    alone, first, second = source(Part()), source(Part(0, 2)), source(Part(1, 2))
    for _ in range(12):  # beyond an epoch
        x, y = alone.next()
        for i, part in enumerate((first, second)):
            mine, labels = part.next()
            assert torch.equal(mine, x[i::2]) and torch.equal(labels, y[i::2])
    tested = [len(y) for part in (first, second) for _, y in part.test_batches()]
    assert sum(tested) == alone.test_images == 20


def test_normalisations_are_those_of_the_papers(data: ImageData) -> None:
    images = data.train_images.double()
    x = Normalisation.per_pixel(data.train_images)(data.train_images).double()
    assert x.mean(0).abs().max() < 1e-5, "the mean of each pixel is not subtracted"
    torch.testing.assert_close(x.pow(2).mean(), torch.tensor(1.0).double())
    x = Normalisation.per_channel(data.train_images)(data.train_images).double()
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    expected = (images - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("batch", "part", "message"),
    [
        (0, Part(), "batch=0: expected 1 to 12"),
        (13, Part(), "batch=13"),
        (9, Part(0, 2), "batch=9: expected a multiple of the 2 processes"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: int, part: Part, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandomOrder(12, batch, 0, part)
