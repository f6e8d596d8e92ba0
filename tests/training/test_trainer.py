"""The loop: schedules, resuming bit by bit, mixed precision, several processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda.training import (
    Augmentation,
    DivergedError,
    ImageData,
    ImagesInMemory,
    Recipe,
    Trainer,
    load_checkpoint,
    load_cifar,
)
from resnet_cuda.training.distributed import this_part
from resnet_cuda.training.recipe import Plateaus, WarmUp, cifar_recipe, imagenet_recipe
from tests.ranks import Ranks
from tests.training_networks import small_network

CPU = torch.device("cpu")
SHORT = Recipe(iterations=10, batch=16, lr=0.05, milestones=(6, 8))  # two epochs of 5


class WithDropout(nn.Module):
    """Draws from torch's own generator in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.dropout = small_network(), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.network(x))


def trainer(data: ImageData, recipe: Recipe = SHORT, **options: Any) -> Trainer:
    torch.manual_seed(1)
    model = options.pop("model", None) or WithDropout()
    own = {key: options.pop(key) for key in ("amp", "name") if key in options}
    return Trainer(model, images(data, recipe, **options), recipe, device=CPU, **own)


def images(data: ImageData, recipe: Recipe = SHORT, **options: Any) -> ImagesInMemory:
    return ImagesInMemory(data, recipe.batch, device=CPU, **{"augment": Augmentation(), **options})


def assert_same_run(actual: Trainer, expected: Trainer) -> None:
    for name, value in expected.model.state_dict().items():
        assert torch.equal(actual.model.state_dict()[name], value), f"{name} differs"
    for ours, theirs in zip(actual.log, expected.log, strict=True):
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


# In the first epoch, between two, and in the second.
@pytest.mark.parametrize(("stop", "amp"), [(3, "fp16"), (5, "none"), (7, "bf16")])
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    data: ImageData, tmp_path: Path, stop: int, amp: str
) -> None:
    uninterrupted = trainer(data, amp=amp)
    uninterrupted.run()
    first = trainer(data, amp=amp)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        first.run(checkpoint=path, checkpoint_every=1, on_step=_interrupt_after(stop))
    second = trainer(data, amp=amp)
    torch.manual_seed(99)  # whatever was drawn before resuming
    second.resume(path)
    assert second.iteration == stop
    second.run()
    assert_same_run(second, uninterrupted)
    states = []
    for run in (second, uninterrupted):
        run.save(path)
        states.append(load_checkpoint(path))
    for name in ("scaler", "warm_up", "plateaus"):
        assert states[0][name] == states[1][name], f"{name} differs"


def _interrupt_after(steps: int) -> Any:
    notes: list[str] = []

    def on_step(note: str) -> None:
        notes.append(note)
        if len(notes) == steps:
            raise KeyboardInterrupt

    return on_step


def test_a_checkpoint_of_another_run_is_refused(data: ImageData, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    trainer(data).save(path)
    with pytest.raises(ValueError, match="of another run: seed 0, here 4"):
        trainer(data, seed=4).resume(path)
    with pytest.raises(ValueError, match="of another run: model '', here 'plain'"):
        trainer(data, name="plain").resume(path)
    with pytest.raises(ValueError, match=r"of another run: recipe .*'lr': 0\.05.*'lr': 0\.1"):
        trainer(data, replace(SHORT, lr=0.1)).resume(path)
    with pytest.raises(ValueError, match="of another model"):
        trainer(data, model=small_network()).resume(path)
    torch.save({"model": {}}, path)
    with pytest.raises(
        ValueError,
        match="has no optimizer, scaler, source, .*identity, random, iteration, sums, log",
    ):
        trainer(data).resume(path)


def test_training_learns_and_logs_each_epoch(data: ImageData) -> None:
    recipe = Recipe(iterations=52, batch=16, lr=0.1, milestones=(30,))
    run = trainer(data, recipe, model=small_network(), augment=None)
    log = run.run()
    assert [row["iteration"] for row in log] == [*range(5, 55, 5), 52]
    assert log[5]["lr"] == 0.1 and log[6]["lr"] == pytest.approx(0.01)
    assert log[-1]["train_error"] < 0.3 < log[0]["train_error"], "nothing was learned"
    loss, error = run.evaluate()
    assert (loss, error) == (log[-1]["test_loss"], log[-1]["test_error"])


def test_a_loss_that_is_not_finite_stops_the_run(data: ImageData) -> None:
    with pytest.raises(DivergedError, match=r"iteration 5, lr 1e\+30"):
        trainer(data, replace(SHORT, lr=1e30)).run()


def test_an_unknown_precision_is_refused(data: ImageData) -> None:
    with pytest.raises(ValueError, match="amp='fp8': expected one of none, bf16, fp16"):
        trainer(data, amp="fp8")


def test_learning_rates_are_the_papers() -> None:
    he = cifar_recipe("cifar_resnet56", 50_000)
    rates = [he.learning_rate(i) for i in (0, 31_999, 32_000, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001, 0.001])
    wrn = cifar_recipe("wrn_28_10", 50_000)
    assert (wrn.iterations, wrn.nesterov, wrn.weight_decay) == (200 * 390, True, 5e-4)
    rates = [wrn.learning_rate(epoch * 390) for epoch in (59, 60, 120, 160)]
    assert rates == pytest.approx([0.1, 0.02, 0.004, 0.0008])
    assert he.scaled(640).milestones == (320, 480)


def test_warming_up_ends_when_the_training_error_is_low(data: ImageData) -> None:
    warm_up = WarmUp(cifar_recipe("cifar_resnet110", 50_000))
    for _ in range(100):
        warm_up.update(0.9)
    assert warm_up.active
    for _ in range(26):
        warm_up.update(0.7)
    assert not warm_up.active, "a mean error of 0.796 is below 0.8"
    run = trainer(data, replace(SHORT, warm_up_lr=0.01))
    run.step()
    assert run.learning_rate() == 0.01
    assert not WarmUp(cifar_recipe("cifar_resnet56", 50_000)).active


def test_the_rate_falls_where_the_test_error_does_not() -> None:
    recipe = imagenet_recipe(1_281_167, plateau=True)
    plateaus = Plateaus(replace(recipe, patience=2))
    counts = []
    for error in (0.5, 0.4, 0.4, 0.45, 0.39, 0.4, 0.41, 0.42, 0.43):
        plateaus.update(error)
        counts.append(plateaus.count)
    assert counts == [0, 0, 0, 1, 1, 1, 2, 2, 3]
    assert recipe.learning_rate(500_000, plateaus=2) == pytest.approx(0.001)
    again = Plateaus(replace(recipe, patience=2))
    again.load_state_dict(plateaus.state_dict())
    again.update(0.4)
    again.update(0.4)
    assert again.count == 4
    steps = imagenet_recipe(1_281_167, plateau=False)
    rates = [steps.learning_rate(epoch * 5004) for epoch in (29, 30, 60)]
    assert rates == pytest.approx([0.1, 0.01, 0.001])


@pytest.mark.parametrize("values", [{"patience": 0}, {"iterations": 0}, {"batch": -1}, {"lr": 0.0}])
def test_a_recipe_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ValueError, match=f"{name}="):
        replace(Recipe(), **values)


def _trained(rank: int, folder: Path, checkpoint: Path) -> tuple[dict[str, Tensor], Any, bool]:
    """Weights and log after training with synchronised batch norms, interrupted and resumed."""

    def fresh() -> Trainer:
        source = images(load_cifar(folder), part=this_part())
        model = small_network().double()
        return Trainer(model, source, SHORT, device=CPU, sync_batch_norm=True)

    whole = fresh()
    whole.run()
    first = fresh()
    for _ in range(3):
        first.step()
    first.save(checkpoint)
    torch.distributed.barrier()
    second = fresh()
    second.resume(checkpoint)
    second.run()
    same = all(
        torch.equal(a, b)
        for a, b in zip(
            whole.model.state_dict().values(), second.model.state_dict().values(), strict=True
        )
    )
    return whole.model.state_dict(), whole.log, same


def test_two_processes_train_what_one_trains(
    cifar_folder: Path, data: ImageData, tmp_path: Path
) -> None:
    alone = Trainer(small_network().double(), images(data), SHORT, device=CPU)
    alone.run()
    ranks = Ranks(tmp_path)
    try:
        answers = ranks.run(_trained, cifar_folder, tmp_path / "checkpoint.pt")
    finally:
        ranks.stop()
    for weights, log, same in answers:
        assert same, "the two processes did not resume bit by bit"
        for name, value in alone.model.state_dict().items():
            torch.testing.assert_close(weights[name], value, msg=f"{name} depends on the processes")
        assert [row["train_error"] for row in log] == [row["train_error"] for row in alone.log]
