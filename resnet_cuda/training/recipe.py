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
    warm_up_lr: float | None = None
    warm_up_error: float = 0.8

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected more than 0")

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

    def learning_rate(self, iteration: int) -> float:
        """The learning rate of the step with this index, from 0, without warm-up."""
        return self.lr * self.lr_factor ** sum(iteration >= m for m in self.milestones)

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
