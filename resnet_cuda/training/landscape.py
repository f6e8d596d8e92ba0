"""The loss around a network's weights, and what reaches its layers: Santurkar et al. 2018, sec. 3 and figure 4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AlongGradient(NamedTuple):
    """What a step down the gradient meets, at each of its lengths.

    losses: of the moved weights; gradient_changes: |g(moved) - g| / |g|; smoothness: the largest |g(moved) - g| over
    the way gone, the effective Lipschitz constant of the gradient.
    """

    loss: float
    losses: list[float]
    gradient_changes: list[float]
    smoothness: float


def along_gradient(
    model: nn.Module, x: Tensor, labels: Tensor, lengths: Sequence[float]
) -> AlongGradient:
    """Loss and gradient at w - length * g for every length, in training mode.

    Args:
        model: x [N, C, H, W] -> logits [N, classes]; it is left as it was, running statistics included.
        x, labels: the batch whose loss is meant.
        lengths: of the step, as multiples of the gradient; a learning rate is one.
    """
    with _restored(model) as weights:
        loss, gradient = _loss_and_gradient(model, x, labels)
        norm = gradient.norm()
        losses, changes, smoothness = [], [], 0.0
        for length in lengths:
            _set(model, weights - length * gradient)
            there, moved = _loss_and_gradient(model, x, labels)
            change = (moved - gradient).norm()
            losses.append(there)
            changes.append((change / norm).item())
            smoothness = max(smoothness, (change / (length * norm)).item())
    return AlongGradient(loss, losses, changes, smoothness)


def percentiles(model: nn.Module, x: Tensor, layer: str, ranks: Sequence[float]) -> list[float]:
    """Percentiles (0 to 100) of the output of the child named `layer`, for x [N, C, H, W] in training mode.

    The model is left as it was.
    """
    outputs: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(
        lambda module, inputs, output: outputs.append(
            output.detach().clone()
        )  # a ReLU may follow in place
    )
    try:
        with _restored(model), torch.no_grad():
            model.train()(x)
    finally:
        hook.remove()
    wanted = torch.tensor(ranks, device=x.device) / 100
    return outputs[0].float().flatten().quantile(wanted).tolist()


@contextmanager
def _restored(model: nn.Module) -> Iterator[Tensor]:
    """Yields the weights as one vector, and puts back weights, buffers, gradients and mode."""
    parameters, training = list(model.parameters()), model.training
    weights = torch.cat([p.detach().flatten() for p in parameters])
    buffers = [b.clone() for b in model.buffers()]
    gradients = [p.grad for p in parameters]
    try:
        yield weights
    finally:
        _set(model, weights)
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        model.train(training)


def _set(model: nn.Module, weights: Tensor) -> None:
    parameters = list(model.parameters())
    pieces = weights.split([p.numel() for p in parameters])
    with torch.no_grad():
        for p, piece in zip(parameters, pieces, strict=True):
            p.copy_(piece.view(p.shape))


def _loss_and_gradient(model: nn.Module, x: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    model.train()
    loss = F.cross_entropy(model(x), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), torch.cat([g.flatten() for g in gradients])
