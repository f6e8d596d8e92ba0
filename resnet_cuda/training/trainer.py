"""The training loop: steps, evaluation after each epoch, checkpoints that resume bit by bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resnet_cuda.training.batches import Source
from resnet_cuda.training.checkpoint import load_checkpoint, save_checkpoint
from resnet_cuda.training.distributed import gathered, summed, this_part
from resnet_cuda.training.recipe import Plateaus, Recipe, WarmUp

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_NOTE_EVERY = 10  # steps: a loss on the bar waits for the device

Row = dict[str, float]


class DivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


class Trainer:
    """Trains a model in channels_last, on one device or as one of torchrun's processes.

    Args:
        model: x [N, C, H, W] -> logits [N, classes]; it is moved to `device` and trained in place.
        source: training and test images, with this process's part of each batch.
        recipe: optimiser and schedule.
        device: where to train.
        name: of the model. A checkpoint must agree on it: nets with and without shortcuts have the same keys.
        amp: "none", or autocast in "bf16" or in "fp16" with a scaled loss.
        sync_batch_norm: normalise by the statistics of all processes' images, not only of this one's.

    `iteration` counts the steps done, `log` has a row for each finished epoch.

    Raises:
        ValueError: amp is not one of these.
    """

    def __init__(
        self,
        model: nn.Module,
        source: Source,
        recipe: Recipe,
        *,
        device: torch.device,
        name: str = "",
        amp: str = "none",
        sync_batch_norm: bool = False,
    ) -> None:
        if amp not in AMP_DTYPES:
            raise ValueError(f"amp={amp!r}: expected one of {', '.join(AMP_DTYPES)}")
        self.source, self.recipe, self.device, self.name = source, recipe, device, name
        self.model: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._dtype = next(model.parameters()).dtype
        self._part = this_part()
        self._network = self.model
        if self._part.count > 1:
            self._network = DistributedDataParallel(self.model)
            if sync_batch_norm:
                # Behind DDP, because it refuses them on a CPU, where our blocks run them too.
                self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
                self._network.module = self.model
        self._optimizer = recipe.optimizer(self.model)
        self._amp = amp
        self._scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self._warm_up, self._plateaus = WarmUp(recipe), Plateaus(recipe)
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, wrong
        # What a checkpoint must agree on, or the run that goes on is another one.
        self._identity = {
            "model": name,
            "recipe": asdict(recipe),
            **source.identity,
            "amp": amp,
            "processes": self._part.count,
            "sync_batch_norm": sync_batch_norm and self._part.count > 1,
        }
        self.iteration = 0
        self.log: list[Row] = []

    def run(
        self,
        *,
        checkpoint: Path | None = None,
        checkpoint_every: int | None = None,
        on_step: Callable[[str], None] = lambda note: None,
        on_epoch: Callable[[list[Row]], None] = lambda log: None,
    ) -> list[Row]:
        """Trains to the recipe's end and returns the log.

        Args:
            checkpoint: file to write after each epoch and at the end, or None.
            checkpoint_every: iterations between checkpoints in place of one after each epoch.
            on_step: is told the state in words after each step.
            on_epoch: is given the log after each epoch.

        Raises:
            DivergedError: the loss became infinite or not a number.
        """
        every = checkpoint_every or self.source.steps_per_epoch
        started, note = time.perf_counter(), ""
        while self.iteration < self.recipe.iterations:
            loss = self.step()
            done = self.iteration == self.recipe.iterations
            if self.iteration % _NOTE_EVERY == 0 or done:
                note = f"loss {loss.item():.4f}"
            if self.iteration % self.source.steps_per_epoch == 0 or done:
                self._finish_epoch(time.perf_counter() - started)
                started = time.perf_counter()
                on_epoch(self.log)
            if checkpoint is not None and (self.iteration % every == 0 or done):
                self.save(checkpoint)
            on_step(note)
        return self.log

    def step(self) -> Tensor:
        """One step of the optimiser; returns the loss of this process's images, not waited for."""
        rate = self.learning_rate()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        images, labels = self.source.next()
        self.model.train()
        with self._autocast():
            logits = _widened(self._network(images.to(self._dtype)))
        loss = F.cross_entropy(logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        measured = _loss_and_wrong(logits.detach(), labels)
        self._sums += measured
        if self._warm_up.active:
            self._warm_up.update(summed(measured)[1].item() / self.recipe.batch)
        self.iteration += 1
        return loss.detach()

    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        if self._warm_up.active and self.recipe.warm_up_lr is not None:
            return self.recipe.warm_up_lr
        return self.recipe.learning_rate(self.iteration, self._plateaus.count)

    def evaluate(self) -> tuple[float, float]:
        """(mean loss, error as a fraction) of the test images, in eval mode."""
        training = self.model.training
        self.model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        with torch.no_grad(), self._autocast():
            for x, labels in self.source.test_batches():
                sums += _loss_and_wrong(_widened(self.model(x.to(self._dtype))), labels)
        self.model.train(training)
        loss, wrong = (summed(sums) / self.source.test_images).tolist()
        return loss, wrong

    def save(self, path: Path) -> None:
        """Writes everything that the next steps follow from; one process writes, all must call.

        Raises:
            OSError: the file cannot be written; one that was there before is left as it was.
        """
        random_states = gathered(self._random_states())
        sums = summed(self._sums.clone())
        if self._part.rank:
            return
        state = {name: part.state_dict() for name, part in self._parts().items()}
        save_checkpoint(
            path,
            state
            | {
                "identity": self._identity,
                "random": random_states,
                "iteration": self.iteration,
                "sums": sums,
                "log": self.log,
            },
        )

    def resume(self, path: Path) -> None:
        """Goes on from a checkpoint as if the run had never stopped.

        Raises:
            ValueError: the file is missing or damaged, or was written by another run; the message says what differs.
        """
        state = load_checkpoint(path)
        needed = (*self._parts(), "identity", "random", "iteration", "sums", "log")
        missing = [key for key in needed if key not in state]
        if missing:
            raise ValueError(f"checkpoint {path}: has no {', '.join(missing)}")
        theirs = state["identity"]
        different = [
            f"{key} {theirs.get(key)!r}, here {value!r}"
            for key, value in self._identity.items()
            if theirs.get(key) != value
        ]
        if different:
            raise ValueError(f"checkpoint {path}: of another run: {'; '.join(different)}")
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
        except RuntimeError as error:
            raise ValueError(f"checkpoint {path}: of another model: {error}") from error
        self._set_random_states(state["random"][self._part.rank])
        self.iteration, self.log = state["iteration"], state["log"]
        # The sum over all processes: one of them goes on with it.
        self._sums.copy_(state["sums"] if self._part.rank == 0 else torch.zeros(2))

    def _parts(self) -> dict[str, Any]:
        """What has a state of its own, the model first: it tells whether a checkpoint fits."""
        return {
            "model": self.model,
            "optimizer": self._optimizer,
            "scaler": self._scaler,
            "source": self.source,
            "warm_up": self._warm_up,
            "plateaus": self._plateaus,
        }

    def _finish_epoch(self, seconds: float) -> None:
        steps = self.iteration - (int(self.log[-1]["iteration"]) if self.log else 0)
        loss, wrong = (summed(self._sums) / (steps * self.recipe.batch)).tolist()
        self._sums.zero_()
        if not math.isfinite(loss):
            raise DivergedError(
                f"the training loss is {loss} at iteration {self.iteration}, lr "
                f"{self.learning_rate():g}: a lower --lr, or a warm-up, may train"
            )
        test_loss, test_error = self.evaluate()
        self._plateaus.update(test_error)
        self.log.append(
            {
                "epoch": math.ceil(self.iteration / self.source.steps_per_epoch),
                "iteration": self.iteration,
                "lr": self._optimizer.param_groups[0]["lr"],
                "train_loss": loss,
                "train_error": wrong,
                "test_loss": test_loss,
                "test_error": test_error,
                "seconds": seconds,
            }
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = AMP_DTYPES[self._amp]
        return torch.autocast(self.device.type, dtype, enabled=dtype is not None)

    def _random_states(self) -> dict[str, Tensor]:
        """Of the generators that modules draw from, e.g. for dropout."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def _set_random_states(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


def _widened(logits: Tensor) -> Tensor:
    """At least float32: a loss in 16 bits would be rounded to three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _loss_and_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of losses and the number of wrong answers, float64 [2]."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([loss, (logits.argmax(1) != labels).sum().double()])
