"""ImageNet's training in small: it trains, resumes and tests an ensemble in three ways."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resnet_cuda.training import load_checkpoint
from tests.image_folders import make_image_folder

pytest.importorskip("matplotlib")

SMALL = ("--model", "resnet18", "--size", 32, "--threads", 1, "--device", "cpu", "--workers", 2)
TRAINING = ("--jitter", 36, 48, "--batch", 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet")
    make_image_folder(folder)
    return folder


def test_a_network_is_trained_resumed_and_tested(
    run_example: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = ("--data", folder, "--out", tmp_path, *SMALL)
    steps = ("--epochs", 2, "--schedule", "step")
    assert run_example("train_imagenet", *common, *TRAINING, *steps) == 0
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["iteration"] for row in rows] == ["2", "4"]
    recipe = json.loads((tmp_path / "summary.json").read_text())["recipe"]
    assert recipe["milestones"] == [1, 3] and recipe["patience"] is None
    checkpoint = tmp_path / "checkpoint.pt"
    assert load_checkpoint(checkpoint)["iteration"] == 4
    assert run_example("train_imagenet", *common, *TRAINING, *steps, "--resume") == 0

    other = shutil.copy(checkpoint, tmp_path / "other.pt")
    for views in ("single", "ten", "multiscale"):
        ensemble = ("--test", views, "--scales", 32, 40, "--checkpoints", checkpoint, other)
        assert run_example("train_imagenet", *common, *ensemble) == 0
        tested = json.loads((tmp_path / "test.json").read_text())
        assert (tested["views"], tested["networks"]) == (views, 2)
        assert tested["top1"] in (0.0, 0.25, 0.5, 0.75, 1.0) and tested["top5"] == 0.0
        if views == "single":
            assert tested["top1"] == float(rows[-1]["test_error"]), "training tested otherwise"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nowhere"), "train is not a folder"),
        (("--test", "ten"), "checkpoints: none given"),
        (("--test", "ten", "--checkpoints", "nowhere.pt"), "nowhere.pt: no such file"),
        (("--model", "resnet19"), "resnet19"),
        (("--jitter", 20, 48), "scales=(20, 48)"),
        (("--workers", 0), "workers=0"),
        (("--batch", 9), "batch=9: expected 1 to 8"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    run_example: Callable[..., int],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    common = ("--data", folder, "--out", tmp_path / "out", *SMALL, *TRAINING)
    assert run_example("train_imagenet", *common, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a refused run wrote something"
