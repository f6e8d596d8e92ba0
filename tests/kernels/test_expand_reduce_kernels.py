"""A bottleneck's expand and the next block's reduce in one launch: both results, equal bits with the two launches that
it stands for, what it moves, and where the two run apart. (How it runs: test_hopper_kernels.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from pass_checks import check_stored, kernels_of, launches, raw
from passes import Conv, nhwc, per_channel, vector
from torch import Tensor

from resnet_cuda import _host
from resnet_cuda.testing import emulated

FUSED = "bottleneck_expand_reduce_sm90_gemm"
DTYPES = [torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Chain:
    """Pixels [n, h, w] of c channels, expanded to k and reduced to l."""

    n: int
    h: int
    w: int
    c: int
    k: int
    l: int  # noqa: E741

    def __str__(self) -> str:
        return f"n{self.n}x{self.h}x{self.w}c{self.c}k{self.k}l{self.l}"

    @property
    def expand(self) -> Conv:
        return Conv(self.n, self.c, self.h, self.w, self.k, 1, 1, padding=(0, 0))

    @property
    def reduce(self) -> Conv:
        return Conv(self.n, self.k, self.h, self.w, self.l, 1, 1, padding=(0, 0))

    def arguments(self, dtype: torch.dtype) -> list[Tensor]:
        """As the raw op takes them."""
        x, weight, residual = self.expand.random(dtype)
        next_weight = self.reduce.random(dtype, seed=1)[1]
        norm, next_norm = ([vector(size, dtype, i) for i in (1, 2)] for size in (self.k, self.l))
        return [x, weight, *norm, residual, next_weight, *next_norm]

    def plan(self, dtype: str = "bfloat16", capability: tuple[int, int] = (9, 0)) -> Mapping:
        x_size, weight_size = (self.n, self.c, self.h, self.w), (self.k, self.c, 1, 1)
        return _host.expand_reduce_plan(dtype, x_size, weight_size, self.l, capability=capability)


# One pixel; rows that end inside a tile, inside a warpgroup's half, and with a whole tile of a pair missing; one to
# four slices of channels, fewer and more columns than stages; every number of filters that reduce.
CHAINS = [
    Chain(1, 1, 1, 64, 64, 64),
    Chain(1, 8, 8, 64, 256, 64),
    Chain(2, 9, 7, 64, 256, 128),
    Chain(1, 16, 16, 128, 512, 128),
    Chain(3, 11, 9, 192, 320, 256),
    Chain(1, 15, 20, 256, 1024, 256),
    Chain(1, 13, 10, 256, 128, 64),
]


@pytest.fixture(params=CHAINS, ids=str)
def chain(request: pytest.FixtureRequest) -> Chain:
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_both_results_are_those_of_the_convolutions(chain: Chain, dtype: torch.dtype) -> None:
    x, weight, scale, bias, residual, next_weight, *next_norm = arguments = chain.arguments(dtype)
    with emulated(multiprocessors=2):
        y, z = raw._bottleneck_expand_reduce(*arguments)
    exact = affine(chain.expand.forward(x.double(), weight.double()), scale, bias)
    check_stored(y, torch.relu(exact + residual.double()), "y")
    # What is reduced has been rounded, as between two launches.
    exact = affine(chain.reduce.forward(y.double(), next_weight.double()), *next_norm)
    check_stored(z, torch.relu(exact), "z")


def affine(y: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return y * per_channel(scale.double()) + per_channel(bias.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_its_bits_are_those_of_two_launches(chain: Chain, dtype: torch.dtype) -> None:
    arguments = chain.arguments(dtype)
    with emulated(multiprocessors=2):
        y, z = raw._bottleneck_expand_reduce(*arguments)
        alone_y, alone_z = two_launches(arguments)
    assert torch.equal(y, alone_y), "y has other bits than bottleneck_expand's result"
    assert torch.equal(z, alone_z), "z has other bits than bottleneck_reduce's result"


def two_launches(arguments: list[Tensor]) -> tuple[Tensor, Tensor]:
    x, weight, scale, bias, residual, next_weight, *next_norm = arguments
    y = raw._bottleneck_expand(x, weight, scale, bias, residual, None, None, None, 1, True, False)[
        0
    ]
    return y, raw._bottleneck_reduce(y, next_weight, *next_norm, 1, True, False)[0]


def test_values_that_are_not_finite_pass_as_through_two_launches() -> None:
    chain = CHAINS[2]
    arguments = chain.arguments(torch.bfloat16)
    arguments[0][0, 3, 2, 1] = float("nan")
    arguments[4][1, 5, 3, 4] = float("inf")
    with emulated():
        for name, a, b in zip(
            "yz",
            raw._bottleneck_expand_reduce(*arguments),
            two_launches(arguments),
            strict=True,
        ):
            assert not a.isfinite().all()
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True, msg=name)


def test_it_is_one_launch_that_stores_each_result_once_and_reads_neither() -> None:
    chain = CHAINS[3]
    arguments = chain.arguments(torch.bfloat16)
    results = []
    run = lambda: results.extend(raw._bottleneck_expand_reduce(*arguments))  # noqa: E731
    (launch,) = launches(run, multiprocessors=2)
    y, z = results
    assert launch["kernel"] == FUSED == chain.plan()["kernel"]
    assert launch["tensors"]["y"] == (0, y.nbytes), "y must be stored and never read back"
    assert launch["tensors"]["z"] == (0, z.nbytes), "z must be stored and never read back"
    counters = launch["counters"]
    assert counters["global_store_bytes"] == y.nbytes + z.nbytes, "something is stored twice"
    # Whatever is no filter nor vector comes once.
    x, residual = arguments[0], arguments[4]
    others = sum(t.nbytes for t in arguments) - x.nbytes - residual.nbytes
    assert counters["distinct_load_bytes"] == x.nbytes + residual.nbytes + others
    assert chain.plan()["bytes"] == sum(
        t.nbytes for t in (*arguments, y, z) if t.dtype == torch.bfloat16
    ), "the plan counts every tensor of pixels and filters once"


REFUSED = {
    "compute capability 9.0": (CHAINS[1], torch.bfloat16, (8, 0)),
    "bfloat16 or float16": (CHAINS[1], torch.float32, (9, 0)),
    "channels that are multiples of 64": (Chain(1, 5, 6, 72, 256, 64), torch.bfloat16, (9, 0)),
    "at most 256 channels to expand": (Chain(1, 5, 6, 320, 128, 64), torch.bfloat16, (9, 0)),
    "64, 128 or 256 filters that reduce": (Chain(1, 5, 6, 64, 128, 192), torch.bfloat16, (9, 0)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_one_kernel_cannot_do_runs_in_two_and_the_plan_says_why(why: str) -> None:
    chain, dtype, capability = REFUSED[why]
    name = str(dtype).removeprefix("torch.")
    assert f"bottleneck_expand_reduce needs {why}" in chain.plan(name, capability)["error"]
    check_runs_apart(chain.arguments(dtype), capability)


def test_operands_that_tma_cannot_reach_run_in_two_kernels() -> None:
    chain = CHAINS[1]
    arguments = chain.arguments(torch.bfloat16)
    x = arguments[0]
    memory = torch.empty(x.numel() + 1, dtype=x.dtype)
    arguments[0] = memory[1:].as_strided(x.shape, x.stride()).copy_(x)
    assert chain.plan()["error"] is None
    check_runs_apart(arguments, (9, 0))


def check_runs_apart(arguments: list[Tensor], capability: tuple[int, int]) -> None:
    run = lambda: raw._bottleneck_expand_reduce(*arguments)  # noqa: E731
    expand, reduce = kernels_of(run, capability=capability)
    assert expand.startswith("bottleneck_expand_s") and reduce.startswith("bottleneck_reduce_s")
    with emulated(capability=capability):
        for a, b in zip(run(), two_launches(arguments), strict=True):
            assert torch.equal(a, b), "the two launches must be those of the ops"


def test_a_residual_in_another_layout_is_refused() -> None:
    arguments = CHAINS[1].arguments(torch.bfloat16)
    arguments[4] = arguments[4].contiguous()
    assert not nhwc(arguments[4]).is_contiguous()
    with emulated(), pytest.raises(RuntimeError, match="residual .*channels_last"):
        raw._bottleneck_expand_reduce(*arguments)
