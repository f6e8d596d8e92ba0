"""Comparisons: a seed gives the weights and the batches, and seeds are averaged."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from resnet_cuda import models
from resnet_cuda.training import ImageData, Recipe
from resnet_cuda.training.comparison import Setting, last_epochs, mean_log, new_trainer


def test_a_seed_gives_the_weights_and_the_batches(data: ImageData) -> None:
    setting = Setting(data, Recipe(iterations=1, batch=4), torch.device("cpu"))
    make = partial(models.create_model, "cifar_resnet20")
    first, same, other = (new_trainer("net", make, setting, seed) for seed in (3, 3, 4))
    images = [trainer.source.next()[0] for trainer in (first, same, other)]
    weights = [trainer.model.conv1.weight for trainer in (first, same, other)]
    for kind in (images, weights):
        assert torch.equal(kind[0], kind[1]) and not torch.equal(kind[0], kind[2])


def test_logs_are_averaged_over_the_seeds() -> None:
    keys = ("iteration", "train_loss", "train_error", "test_error", "seconds")
    logs = [
        [dict(zip(keys, (i, base + i, 0.5, 0.25, 10), strict=True)) for i in (1, 2)]
        for base in (0.0, 1.0)
    ]
    assert [row["train_loss"] for row in mean_log(logs)] == [1.5, 2.5]
    last = last_epochs({"net": logs})["net"]
    assert last["train_losses"] == [2.0, 3.0]
    assert (last["train_loss"], last["test_error"]) == pytest.approx((2.5, 0.25))
    assert last["seconds"] == 20, "the seconds of a run are those of its epochs"
