"""What autograd holds of a residual block of ResNet-50, against eager torch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from benchmarks import block_memory
from benchmarks.block_memory import GOALS, held
from benchmarks.block_traffic import STAGES, Case, imagenet
from resnet_cuda import _raw


@pytest.fixture(autouse=True)
def _built() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")


@pytest.mark.parametrize("projection", [False, True], ids=["identity", "projection"])
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_resnet50_keeps_the_goals(stage: int, projection: bool) -> None:
    line = block_memory.line(imagenet(stage, projection))
    for policy, goal in GOALS.items():
        ratio = line.of_eager(policy, "without x")
        assert ratio <= goal, f"{policy} holds {ratio:.3f} of eager's bytes"
    ratio = line.of_eager("save", "with x")
    assert ratio <= GOALS["save"], f"save holds {ratio:.3f} of eager's bytes, x counted"


def test_eager_s_identity_block_holds_each_activation_once() -> None:
    case = replace(imagenet(3, False), batch=2)
    y2 = 2 * 2 * case.image**2 * case.width  # bytes; x, y3 and z are four times that
    eager = block_memory.measure(case, None)
    assert eager.x == eager.z == 4 * y2
    vectors = eager.inside - 8 * y2  # beside y1, its ReLU, y2, its ReLU, and y3
    assert 0 < vectors <= 2 * 6 * case.width * 4, "eager is to keep means and deviations beside"


@pytest.mark.parametrize("policy", [None, "save", "recompute"])
def test_a_batch_holds_what_follows_from_one_and_two_images(policy: str | None) -> None:
    case = Case(1, True, 5, 8)
    assert block_memory.by_images(case, policy) == block_memory.measure(case, policy)


def test_what_is_held_is_counted_once_and_without_parameters() -> None:
    class Squares(nn.Module):
        """Holds its input twice, an inner tensor, its output and its parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(100))

        def forward(self, x: Tensor) -> Tensor:
            return (x * x * self.scale).exp()

    assert held(Squares(), torch.randn(100, requires_grad=True)) == (400, 400, 400)
