"""How a network is trained: optimiser, learning rates, length."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

# The paper: "until the training error is below 80% (about 400 iterations)"; a batch alone is too noisy a measure.
_WARM_UP_WINDOW = 50


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a learning rate in steps; the defaults are He et al. 2015, sec. 4.2.

    Attributes:
        iterations: steps in all.
        batch: images of one step, of all processes together.
        milestones: iterations at which the learning rate is multiplied by `lr_factor`.
        patience: epochs without a lower test error after which the learning rate is multiplied by `lr_factor`, or None.
        warm_up_lr: learning rate until the training error of the last 50 batches is below `warm_up_error`, or None.
    """

    iterations: int = 64_000
    batch: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    milestones: tuple[int, ...] = (32_000, 48_000)
    lr_factor: float = 0.1
    patience: int | None = None
    warm_up_lr: float | None = None
    warm_up_error: float = 0.8

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "lr", "patience"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: expected more than 0")

    def scaled(self, iterations: int) -> Recipe:
        """The same recipe in another number of iterations: milestones stay at the same fractions."""
        factor = iterations / self.iterations
        milestones = tuple(round(m * factor) for m in self.milestones)
        return replace(self, iterations=iterations, milestones=milestones)

    def changed(
        self, iterations: int | None = None, batch: int | None = None, lr: float | None = None
    ) -> Recipe:
        """This recipe with what is not None in place of its own; another length scales the milestones."""
        recipe = replace(
            self, batch=self.batch if batch is None else batch, lr=self.lr if lr is None else lr
        )
        return recipe if iterations is None else recipe.scaled(iterations)

    def learning_rate(self, iteration: int, plateaus: int = 0) -> float:
        """The learning rate of the step with this index, from 0, behind so many plateaus, without warm-up."""
        passed = sum(iteration >= m for m in self.milestones)
        return self.lr * self.lr_factor ** (passed + plateaus)

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """SGD over all parameters; biases and batch norms decay too, as in the papers."""
        return torch.optim.SGD(
            model.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


# For scikit-learn's digits. The papers' 0.1 is too much for ResNet-56 on so few images: it loses the first epochs.
DIGITS_RECIPE = Recipe(iterations=352, batch=64, lr=0.02, milestones=(176, 264))


def imagenet_recipe(images: int, plateau: bool) -> Recipe:
    """He et al. 2015, sec. 3.4: batches of 256, the rate divided by 10 when the error plateaus, 600,000 iterations; or
    the usual 90 epochs with steps at 30 and 60.

    Args:
        images: number of training images.
        plateau: whether the error decides, and not the epoch.
    """
    if plateau:
        return Recipe(iterations=600_000, batch=256, milestones=(), patience=5)
    epoch = max(1, images // 256)
    return Recipe(iterations=90 * epoch, batch=256, milestones=(30 * epoch, 60 * epoch))


def cifar_recipe(model: str, images: int) -> Recipe:
    """The recipe of the paper that a CIFAR model comes from.

    Args:
        model: a name that `resnet_cuda.models.create_model` accepts.
        images: number of training images, for recipes that count in epochs.
    """
    if model.startswith("wrn"):  # Zagoruyko and Komodakis 2016, sec. 3
        epoch = max(1, images // 128)
        return Recipe(
            iterations=200 * epoch,
            weight_decay=5e-4,
            nesterov=True,
            milestones=(60 * epoch, 120 * epoch, 160 * epoch),
            lr_factor=0.2,
        )
    deep = model.endswith(("110", "1202"))
    return Recipe(warm_up_lr=0.01 if deep else None)


class WarmUp:
    """Tells whether the training error has not yet come below the recipe's threshold."""

    def __init__(self, recipe: Recipe) -> None:
        self.active = recipe.warm_up_lr is not None
        self._threshold = recipe.warm_up_error
        self._errors: deque[float] = deque(maxlen=_WARM_UP_WINDOW)

    def update(self, error: float) -> None:
        """Takes the error of one more batch, a fraction."""
        self._errors.append(error)
        mean = sum(self._errors) / len(self._errors)
        if len(self._errors) == _WARM_UP_WINDOW and mean < self._threshold:
            self.active = False

    def state_dict(self) -> dict[str, Any]:
        return {"active": self.active, "errors": list(self._errors)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active = state["active"]
        self._errors = deque(state["errors"], maxlen=_WARM_UP_WINDOW)


class Plateaus:
    """Counts how often the test error has stopped to fall; `count` drops of the learning rate."""

    def __init__(self, recipe: Recipe) -> None:
        self.count = 0
        self._patience = recipe.patience
        self._lowest, self._waited = float("inf"), 0

    def update(self, error: float) -> None:
        """Takes the test error behind one more epoch."""
        if error < self._lowest:
            self._lowest, self._waited = error, 0
            return
        self._waited += 1
        if self._waited == self._patience:
            self.count, self._waited = self.count + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "lowest": self._lowest, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._lowest, self._waited = state["count"], state["lowest"], state["waited"]
