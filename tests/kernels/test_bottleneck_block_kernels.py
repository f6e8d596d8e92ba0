"""A whole bottleneck in one launch: the result, equal bits with the three launches that it stands for, what it moves, and
where the three run apart. (How it runs: test_hopper_kernels.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from pass_checks import check_stored, kernels_of, launches, raw
from passes import Conv, per_channel, vector
from torch import Tensor

from resnet_cuda import _host
from resnet_cuda.testing import emulated

FUSED = "bottleneck_block_sm90_halo"
DTYPES = [torch.bfloat16, torch.float16]
GEOMETRY = ([1, 1], [1, 1], [1, 1], 1)  # of the 3x3


@dataclass(frozen=True)
class Block:
    """Pixels [n, h, w] of c channels, reduced to k."""

    n: int
    h: int
    w: int
    c: int = 256
    k: int = 64

    def __str__(self) -> str:
        return f"n{self.n}x{self.h}x{self.w}c{self.c}k{self.k}"

    @property
    def convolutions(self) -> tuple[Conv, Conv, Conv]:
        pointwise = {"r": 1, "s": 1, "padding": (0, 0)}
        return (
            Conv(self.n, self.c, self.h, self.w, self.k, **pointwise),
            Conv(self.n, self.k, self.h, self.w, self.k),
            Conv(self.n, self.k, self.h, self.w, self.c, **pointwise),
        )

    def arguments(self, dtype: torch.dtype) -> list[Tensor]:
        """As the raw op takes them. Biases are large: padding is zero behind the ReLU, not in front of it."""
        arguments = [self.convolutions[0].random(dtype)[0]]
        for seed, conv in enumerate(self.convolutions):
            weight = conv.random(dtype, seed=seed)[1]
            scale, bias = (vector(conv.k, dtype, 2 * seed + i) for i in (0, 1))
            arguments += [weight, scale, bias + 1]
        return arguments

    def plan(self, dtype: str = "bfloat16", capability: tuple[int, int] = (9, 0)) -> Mapping:
        size = (self.n, self.c, self.h, self.w)
        return _host.bottleneck_block_plan(dtype, size, self.k, capability=capability)


# One to three strips, the last one cut off; one and several boxes of each, one cut off; several images.
BLOCKS = [Block(1, 8, 24), Block(2, 16, 24), Block(1, 24, 40), Block(5, 8, 40)]


@pytest.fixture(params=BLOCKS, ids=str)
def block(request: pytest.FixtureRequest) -> Block:
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_result_is_that_of_the_convolutions(block: Block, dtype: torch.dtype) -> None:
    arguments = block.arguments(dtype)
    reduced, convolved, _ = three_launches(arguments)
    with emulated(multiprocessors=2):
        y = raw._bottleneck_block(*arguments)
    x, *norms = arguments
    flow, steps = x, []
    for conv, stored in zip(block.convolutions, (reduced, convolved, None), strict=True):
        weight, scale, bias, *norms = norms
        exact = conv.forward(flow.double(), weight.double())
        steps.append(exact * per_channel(scale.double()) + per_channel(bias.double()))
        flow = stored  # rounded, as between three launches
    check_stored(y, torch.relu(steps[-1] + x.double()), "y")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
def test_its_bits_are_those_of_three_launches(
    block: Block, dtype: torch.dtype, multiprocessors: int
) -> None:
    arguments = block.arguments(dtype)
    with emulated(multiprocessors=multiprocessors):
        y = raw._bottleneck_block(*arguments)
    assert torch.equal(y, three_launches(arguments)[2]), "y has other bits than three launches' y"


def three_launches(arguments: list[Tensor], **gpu: object) -> tuple[Tensor, Tensor, Tensor]:
    x, w1, s1, b1, w2, s2, b2, w3, s3, b3 = arguments
    with emulated(**gpu):
        a = raw._bottleneck_reduce(x, w1, s1, b1, 1, True, False)[0]
        b = raw._conv_fprop(a, w2, None, None, s2, b2, None, True, *GEOMETRY, False)[0]
        expand = raw._bottleneck_expand
        return a, b, expand(b, w3, s3, b3, x, None, None, None, 1, True, False)[0]
