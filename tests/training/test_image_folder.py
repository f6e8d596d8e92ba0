"""Images from files: deterministic whoever reads them when, resumable, and a name for what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda.training.batches import Part
from resnet_cuda.training.image_folder import ImageFolder, find_images
from resnet_cuda.training.scores import classification_errors, probabilities
from resnet_cuda.training.views import Image, single_crop
from tests.image_folders import make_image_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_image_folder(folder)
    return folder


def source(folder: Path, **options: Any) -> ImageFolder:
    train = find_images(folder / "train")
    test = find_images(folder / "val", train.classes)
    return ImageFolder(train, test, 4, device=CPU, **{"size": 16, "scales": (20, 30), **options})


def test_files_are_found_in_a_fixed_order(folder: Path) -> None:
    files = find_images(folder / "train")
    assert files.classes == ("class0", "class1")
    assert [path.name for path in files.paths] == ["0.png", "1.png", "2.png", "3.png"] * 2
    assert files.labels == [0] * 4 + [1] * 4


def test_batches_do_not_depend_on_threads_and_go_on_from_a_state(folder: Path) -> None:
    one, many = source(folder, workers=1), source(folder, workers=4)
    batches = [one.next() for _ in range(5)]  # beyond two epochs
    for i, (x, y) in enumerate(batches):
        state = many.state_dict()
        there, labels = many.next()
        assert torch.equal(there, x) and torch.equal(labels, y), f"batch {i}"
        resumed = source(folder)
        resumed.next()
        resumed.load_state_dict(state)
        again, _ = resumed.next()
        assert torch.equal(again, x), f"a run resumed before batch {i} sees other images"
    assert batches[0][0].shape == (4, 3, 16, 16)
    assert sorted(torch.cat([y for _, y in batches[:2]]).tolist()) == [0] * 4 + [1] * 4


def test_processes_share_the_images_of_one(folder: Path) -> None:
    alone = source(folder)
    parts = [source(folder, part=Part(rank, 2)) for rank in range(2)]
    x, y = alone.next()
    for rank, part in enumerate(parts):
        mine, labels = part.next()
        assert torch.equal(mine, x[rank::2]) and torch.equal(labels, y[rank::2])
    tested = torch.cat([x for x, _ in alone.test_batches()])
    shared = [torch.cat([x for x, _ in part.test_batches()]) for part in parts]
    assert torch.equal(tested[0::2], shared[0]) and torch.equal(tested[1::2], shared[1])


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    make_image_folder(tmp_path)
    damaged = tmp_path / "train" / "class1" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
    images = source(tmp_path)
    with pytest.raises(RuntimeError, match=r"class1/2\.png: cannot be read"):
        for _ in range(2):
            images.next()


def test_folders_that_are_not_images_by_class_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no images; expected folder/class"):
        find_images(tmp_path)
    with pytest.raises(ValueError, match="2 classes, expected the 1 .*different: class1"):
        find_images(folder / "val", ("class0",))
    with pytest.raises(ValueError, match=r"scales=\(10, 30\).*size=16"):
        source(folder, scales=(10, 30))
    with pytest.raises(ValueError, match="workers=0"):
        source(folder, workers=0)


class Brightness(nn.Module):
    """Logits from the mean of the image: (slope * mean, 0)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3))
        return torch.stack([self.slope * mean, torch.zeros_like(mean)], 1)


def test_scores_are_the_mean_over_views_and_networks() -> None:
    views = [torch.full((3, 4, 4), 1.0), torch.full((3, 6, 4), 2.0), torch.full((3, 4, 4), 3.0)]
    scores = probabilities([Brightness(1.0), Brightness(-0.5)], views)
    expected = sum(
        torch.sigmoid(torch.tensor(slope * mean)) for slope in (1.0, -0.5) for mean in (1, 2, 3)
    )
    assert scores[0].item() == pytest.approx(float(expected) / 6)
    assert scores.sum().item() == pytest.approx(1)


class Fixed(nn.Module):
    """The same scores for every image: six classes, the later the better; or no numbers."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.arange(6.0).expand(len(x), 6)


def test_top_1_and_top_5_errors_are_fractions_of_images(tmp_path: Path) -> None:
    make_image_folder(tmp_path, classes=6, train=1, val=2)

    def crop(image: Image) -> list[Tensor]:
        return [single_crop(image, 16)]

    files = find_images(tmp_path / "val")
    assert classification_errors([Fixed()], files, crop, CPU) == pytest.approx((5 / 6, 1 / 6))
    assert classification_errors([Fixed(float("nan"))], files, crop, CPU) == (1, 1)
