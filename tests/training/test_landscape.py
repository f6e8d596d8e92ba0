"""The loss around a network's weights, on functions whose answers are known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda.training.landscape import along_gradient, percentiles
from tests.training_networks import small_network


class LogOdds(nn.Module):
    """Logits (w, 0) for every image: loss log(1 + exp(-w)) for label 0."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.w, self.w.new_zeros(1)]).expand(len(x), 2)


def test_losses_and_gradients_along_the_gradient_are_those_of_the_formula() -> None:
    def loss(w: Tensor) -> Tensor:
        return torch.log1p(torch.exp(-w))

    def slope(w: Tensor) -> Tensor:
        return -torch.sigmoid(-w)

    w, labels = torch.tensor(0.7, dtype=torch.float64), torch.zeros(3, dtype=torch.int64)
    lengths = [0.5, 2.0]
    found = along_gradient(LogOdds(0.7), torch.zeros(3, 1, 1, 1), labels, lengths)
    moved = [w - length * slope(w) for length in lengths]
    assert found.loss == pytest.approx(loss(w).item())
    assert found.losses == pytest.approx([loss(m).item() for m in moved])
    changes = [((slope(m) - slope(w)) / slope(w)).abs().item() for m in moved]
    assert found.gradient_changes == pytest.approx(changes)
    ways = [(m - w).abs().item() for m in moved]
    steepest = max(
        abs((slope(m) - slope(w)).item()) / way for m, way in zip(moved, ways, strict=True)
    )
    assert found.smoothness == pytest.approx(steepest)


def test_looking_around_leaves_the_network_as_it_was() -> None:
    model = small_network().eval()
    before = copy.deepcopy(model.state_dict())
    x, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    along_gradient(model, x, labels, [0.1, 1.0])
    percentiles(model, x, "layer1.0.bn1", [50])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} was changed"
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_percentiles_are_those_of_the_layers_output() -> None:
    layers = (nn.AvgPool2d(1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(101, 1))
    x = torch.arange(-100.0, 1.0).reshape(1, 1, 101, 1)
    found = percentiles(nn.Sequential(*layers), x, "0", [0, 15, 50, 100])
    assert found == pytest.approx([-100, -85, -50, 0])
