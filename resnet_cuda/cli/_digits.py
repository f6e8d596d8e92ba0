"""scikit-learn's handwritten digits and a training loop for them, as the demo needs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda import reference, training
from resnet_cuda.training import Normalisation


class Digits(NamedTuple):
    """images [N, 1, 8, 8] with zero mean and unit variance, labels [N]; split once, by a fixed seed."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_digits(device: torch.device) -> Digits:
    """The 1,797 images that ship inside scikit-learn. Raises ImportError where that is missing."""
    data = training.load_digits()
    normalise = Normalisation.per_channel(data.train_images)
    train, test = (
        normalise(images).to(device, memory_format=torch.channels_last)
        for images in (data.train_images, data.test_images)
    )
    return Digits(train, data.train_labels.to(device), test, data.test_labels.to(device))


def digits_network(seed: int) -> nn.Module:
    """A 20-layer bottleneck ResNet for 8x8 images in plain torch modules, 0.3 million parameters."""
    torch.manual_seed(seed)
    network: nn.Module = reference.ResNet(
        reference.Bottleneck,
        [2, 2, 2],
        num_classes=10,
        stem="cifar",
        planes=(16, 32, 64),
        in_channels=1,
    )
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass
class TrainingRun:
    """What one training run recorded."""

    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    epoch_losses: list[float] = field(default_factory=list)
    train_accuracy: float = 0.0
    test_accuracy: float = 0.0
    memory_bytes: int = 0


class Trainer:
    """SGD with momentum and a cosine schedule (weight decay as in He et al. 2015).

    The batches depend on `seed` only, so that two trainers see the same ones.
    """

    def __init__(
        self, model: nn.Module, digits: Digits, epochs: int, batch: int, seed: int
    ) -> None:
        self.model, self.digits, self.batch = model, digits, batch
        self.steps_per_epoch = len(digits.train_images) // batch
        self.run = TrainingRun()
        self._optimizer = torch.optim.SGD(
            model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            self._optimizer, epochs * self.steps_per_epoch
        )
        self._generator = torch.Generator().manual_seed(seed)

    def epoch(self, advance: Callable[[str], None]) -> None:
        """One pass over the training images; `advance` is called after each step."""
        digits, run = self.digits, self.run
        self.model.train()
        order = torch.randperm(len(digits.train_images), generator=self._generator)
        losses = []
        for indices in order[: self.steps_per_epoch * self.batch].split(self.batch):
            indices = indices.to(digits.train_images.device)
            images, labels = digits.train_images[indices], digits.train_labels[indices]
            start = _clock(images.device)
            losses.append(self._step(images, labels))
            run.step_seconds.append(_clock(images.device) - start)
            advance(f"loss {losses[-1]:.4f}")
        run.losses += losses
        run.epoch_losses.append(sum(losses) / len(losses))

    def _step(self, images: Tensor, labels: Tensor) -> float:
        loss = F.cross_entropy(self.model(images), labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return loss.item()

    def finish(self) -> TrainingRun:
        """The record, with the accuracies and the memory of one step."""
        run, digits, batch = self.run, self.digits, self.batch
        run.train_accuracy = accuracy(self.model, digits.train_images, digits.train_labels)
        run.test_accuracy = accuracy(self.model, digits.test_images, digits.test_labels)
        run.memory_bytes = step_memory(
            self.model, digits.train_images[:batch], digits.train_labels[:batch]
        )
        return run


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of `images` that the model classifies right in eval mode; the mode is restored."""
    training = model.training
    model.eval()
    with torch.no_grad():
        right = (model(images).argmax(1) == labels).float().mean().item()
    model.train(training)
    return right


def step_memory(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Bytes of one step: the peak of CUDA's allocator, or on the CPU what the forward keeps for the backward pass."""
    if images.is_cuda:
        torch.cuda.reset_peak_memory_stats(images.device)
        F.cross_entropy(model(images), labels).backward()
        return torch.cuda.max_memory_allocated(images.device)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = F.cross_entropy(model(images), labels)
    del loss
    return sum(kept.values())


def loss_and_gradients(
    model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """(logits, gradients of all parameters) of one training-mode pass; statistics do move."""
    model.train()
    model.zero_grad(set_to_none=True)
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return logits.detach(), gradients


def deviation(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    expected = expected.double()
    scale = expected.abs().max().clamp_min(1e-30)
    return ((actual.double() - expected).abs().max() / scale).item()


def _clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
