"""A whole bottleneck in one launch: the result, equal bits with the three launches that it stands for, what it moves,
and where the three run apart. (How it runs: test_hopper_kernels.)"""

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


def test_values_that_are_not_finite_pass_as_through_three_launches() -> None:
    arguments = BLOCKS[1].arguments(torch.bfloat16)
    arguments[0][0, 3, 2, 1] = float("nan")
    arguments[0][1, 5, 13, 14] = float("inf")
    with emulated(multiprocessors=2):
        y = raw._bottleneck_block(*arguments)
    assert not y.isfinite().all()
    expected = three_launches(arguments)[2]
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_it_is_one_launch_that_stores_the_result_once_and_nothing_else() -> None:
    block = BLOCKS[1]
    arguments = block.arguments(torch.bfloat16)
    results = []
    run = lambda: results.append(raw._bottleneck_block(*arguments))  # noqa: E731
    (launch,) = launches(run, multiprocessors=2)
    (y,) = results
    assert launch["kernel"] == FUSED == block.plan()["kernel"]
    assert launch["tensors"]["y"] == (0, y.nbytes), "y must be stored once and never read back"
    counters = launch["counters"]
    assert counters["global_store_bytes"] == y.nbytes, "something else is stored"
    assert counters["distinct_load_bytes"] == sum(t.nbytes for t in arguments)
    assert block.plan()["bytes"] == sum(
        t.nbytes for t in (*arguments, y) if t.dtype == torch.bfloat16
    ), "the plan counts every tensor of pixels and filters once"


@pytest.mark.parametrize("columns", [24, 56])
def test_pixels_come_once_to_be_reduced_and_once_as_the_shortcut(columns: int) -> None:
    block = Block(1, 24, columns)
    arguments = block.arguments(torch.bfloat16)
    (launch,) = launches(lambda: raw._bottleneck_block(*arguments), multiprocessors=1)
    x = arguments[0]
    # Boxes of 16 columns for strips of 14; what of them is behind the image's edges is no bytes.
    strips = range(0, columns, 14)
    of_boxes = sum(min(first + 15, columns) - max(first - 1, 0) for first in strips)
    filters = sum(t.nbytes for t in arguments[1:] if t.dtype == torch.bfloat16)
    # Each thread asks for a scale and a bias of 16 channels of 64, six times for 4 rows of a strip.
    steps = len(strips) * (24 + 4) // 4
    vectors = steps * 128 * 6 * 16 * (4 + 4)
    loaded = launch["counters"]["global_load_bytes"]
    to_reduce = x.nbytes * of_boxes // columns
    assert loaded == to_reduce + x.nbytes + filters + vectors, "a row or a filter comes twice"


REFUSED = {
    "compute capability 9.0": (BLOCKS[0], torch.bfloat16, (8, 0)),
    "bfloat16 or float16": (BLOCKS[0], torch.float32, (9, 0)),
    "256 channels, reduced to 64": (Block(1, 8, 24, 128, 32), torch.bfloat16, (9, 0)),
    "a 3x3 that conv_fprop would compute from halos": (Block(2, 7, 26), torch.float16, (9, 0)),
    "a width that strips of 14 columns fill": (Block(1, 8, 16), torch.bfloat16, (9, 0)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_one_kernel_cannot_do_runs_in_three_and_the_plan_says_why(why: str) -> None:
    block, dtype, capability = REFUSED[why]
    name = str(dtype).removeprefix("torch.")
    assert f"bottleneck_block needs {why}" in block.plan(name, capability)["error"]
    check_runs_apart(block.arguments(dtype), capability)


@pytest.mark.parametrize("block", [Block(3, 5, 3, 20, 12), Block(1, 1, 1, 7, 3)], ids=str)
def test_odd_sizes_run_in_three_kernels(block: Block) -> None:
    check_runs_apart(block.arguments(torch.bfloat16), (9, 0))


def test_operands_that_tma_cannot_reach_run_in_three_kernels() -> None:
    block = BLOCKS[0]
    arguments = block.arguments(torch.bfloat16)
    x = arguments[0]
    memory = torch.empty(x.numel() + 1, dtype=x.dtype)
    arguments[0] = memory[1:].as_strided(x.shape, x.stride()).copy_(x)
    assert block.plan()["error"] is None
    check_runs_apart(arguments, (9, 0))


def check_runs_apart(arguments: list[Tensor], capability: tuple[int, int]) -> None:
    run = lambda: raw._bottleneck_block(*arguments)  # noqa: E731
    reduce, convolution, expand = kernels_of(run, capability=capability)
    assert reduce.startswith("bottleneck_reduce_s") and expand.startswith("bottleneck_expand_s")
    assert convolution.startswith("conv_fprop_s")
    with emulated(capability=capability):
        y = run()
    expected = three_launches(arguments, capability=capability)[2]
    assert torch.equal(y, expected), "the three launches must be those of the ops"
