"""float32 on Hopper's tensor cores where TF32 is allowed: the forward convolution, whose operands lie along the depth.
TMA rounds what is multiplied as it comes, threads what they normalise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pass_checks import (
    AMPERE,
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    launches,
    plan_of,
)
from passes import Conv, nhwc, normalise_relu, tile_statistics, vector
from test_layer_shapes import LAYERS
from test_tf32_kernels import (  # of this file's `conv` and `device`: pytest collects them here once more
    test_fprop_and_its_statistics,  # noqa: F401
    test_fprop_epilogue_scales_adds_and_activates,  # noqa: F401
    test_fprop_normalises_on_load_and_pads_after_the_activation,  # noqa: F401
    test_the_projection_shares_the_expand_s_tile,  # noqa: F401
)
from tf32 import as_tf32, tf32_allowed
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_rule, emulated

raw = torch.ops.resnet_cuda
POINTWISE = {"r": 1, "s": 1, "padding": (0, 0)}
# Tiles of 64, 128 and 256 columns, and several of them; rows, channels and filters that are cut off; strides, windows
# and paddings; dilation; groups of 32 channels; an image of one pixel, and one that is smaller than the window.
PROBLEMS = [
    Conv(1, 32, 1, 1, 32, **POINTWISE),
    Conv(2, 64, 9, 9, 128, **POINTWISE),
    Conv(2, 100, 11, 13, 72, **POINTWISE),
    Conv(3, 64, 10, 9, 256, stride=(2, 2), **POINTWISE),
    Conv(1, 32, 6, 5, 64, 1, 1, padding=(1, 2)),
    Conv(2, 32, 9, 7, 36),
    Conv(1, 28, 14, 13, 264, stride=(2, 2)),
    Conv(1, 64, 13, 11, 64, 3, 5, stride=(3, 1), padding=(1, 2)),
    Conv(1, 64, 10, 9, 64, padding=(2, 2), dilation=(2, 2)),
    Conv(1, 64, 7, 6, 64, groups=2),
    Conv(1, 32, 2, 3, 35, 5, 5, padding=(2, 2)),
    Conv(3, 64, 14, 13, 192),
    Conv(2, 128, 14, 13, 520, **POINTWISE),
]
SEVERAL_TILES = PROBLEMS[-2]
NOTHING = (None, None, None, None, None)  # of fprop's optional inputs
Run = Callable[[], "Tensor | tuple[Tensor, ...]"]


def is_taken(layer: Conv) -> bool:
    """Of ResNet-50, ResNeXt-50 and WRN-28-10, by Hopper's kernels."""
    return "_sm90_" in plan_of("fprop", layer, torch.float32, allow_tf32=True)["kernel"]


@pytest.fixture(params=[*PROBLEMS, *filter(is_taken, LAYERS)], ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.fixture(params=[1, 132], ids="on {} multiprocessors".format)
def device(device: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """As in test_tf32_kernels.py. On one multiprocessor a block computes many tiles, and wide ones."""
    if device == "cuda" and request.param == 1:
        pytest.skip("a GPU has as many multiprocessors as it has")
    with tf32_allowed(device, multiprocessors=request.param):
        yield device


@pytest.fixture
def projection() -> tuple[Conv, Conv]:
    """An expand, and the projection beside it, of stride 2."""
    return Conv(2, 64, 7, 9, 72, 1, 1, padding=(0, 0)), Conv(2, 96, 14, 17, 72, 1, 1)


def fusions(conv: Conv) -> dict[str, Run]:
    """fprop, as many tiles for each block as two multiprocessors leave."""
    x, weight, residual = conv.random(torch.float32)
    on_load, norm = ([vector(n, torch.float32, seed) for seed in (1, 2)] for n in (conv.c, conv.k))
    to = conv.geometry
    return {
        "statistics": lambda: raw._conv_fprop(x, weight, *NOTHING, False, *to, True),
        "shortcut": lambda: raw._conv_fprop(
            x, weight, None, None, *norm, residual, True, *to, False
        ),
        "on load, statistics": lambda: raw._conv_fprop(
            x, weight, *on_load, None, None, None, False, *to, True
        ),
        "on load, shortcut": lambda: raw._conv_fprop(
            x, weight, *on_load, *norm, residual, True, *to, False
        ),
        "projection": lambda: expand_with_projection(conv),
    }


def expand_with_projection(conv: Conv) -> tuple[Tensor, ...]:
    expand = Conv(2, 64, 12, 13, conv.k, **POINTWISE)
    project = Conv(2, 96, 24, 26, conv.k, **POINTWISE)
    (x, weight, _), (short, p_weight, _) = (
        of.random(torch.float32, seed=seed) for seed, of in enumerate((expand, project))
    )
    norms = [vector(conv.k, torch.float32, seed) for seed in range(4)]
    on_load = {
        f"x_{name}": vector(64, torch.float32, seed)
        for seed, name in enumerate(("scale", "bias", "floor"))
    }
    return raw._bottleneck_expand(
        x, weight, *norms[:2], nhwc(short), p_weight, *norms[2:], 2, True, False, **on_load
    )


FUSIONS = list(fusions(SEVERAL_TILES))


@pytest.fixture(params=FUSIONS)
def fusion(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_forward_passes_run_on_hopper_s_kernels(problem: Conv, fusion: str) -> None:
    first, *_ = launches(fusions(problem)[fusion], allow_tf32=True)
    assert "_sm90_" in first["kernel"], plan_of("fprop", problem, torch.float32, allow_tf32=True)


def test_the_problems_need_tiles_of_every_width() -> None:
    def widths(**options: object) -> set[int]:
        plans = [
            plan_of("fprop", p, torch.float32, allow_tf32=True, multiprocessors=n, **options)
            for p in PROBLEMS
            for n in (1, 132)
        ]
        return {plan["tile"][1] for plan in plans}

    assert widths() == widths(normalises=True) == {64, 128, 256}


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_statistics_are_of_what_was_normalised_on_load(problem: Conv, device: str) -> None:
    x, weight, _ = problem.random(torch.float32)
    scale, bias = (vector(problem.c, torch.float32, seed) for seed in (1, 2))
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, partials, _ = raw._conv_fprop(*args, None, None, None, False, *problem.geometry, True)
    exact = normalise_relu(x.double(), scale.double(), bias.double())
    torchs = problem.forward(as_tf32(exact.float()), as_tf32(weight))
    check_rule(y.cpu(), torchs, problem.forward(exact, weight.double()), name="y")
    expected = tile_statistics(y.cpu().double())
    torch.testing.assert_close(partials.cpu().double(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_projection_with_a_stride_that_tma_lacks_takes_ampere_s_kernels(
    dtype: torch.dtype,
) -> None:
    expand, project = Conv(1, 64, 2, 3, 64, **POINTWISE), Conv(1, 64, 18, 27, 64, **POINTWISE)
    (x, weight, _), (short, p_weight, _) = expand.random(dtype), project.random(dtype, seed=1)
    norms = [vector(64, dtype, seed) for seed in range(4)]
    arguments = (x, weight, *norms[:2], short, p_weight, *norms[2:], 9, True, False)
    with emulated(allow_tf32=True) as emulator:
        z, *_ = raw._bottleneck_expand(*arguments)
        assert emulator.launches()[0]["kernel"] == "bottleneck_expand_project_sm80_gemm"
    with emulated(allow_tf32=True, capability=AMPERE):
        same, *_ = raw._bottleneck_expand(*arguments)
    assert torch.equal(z, same)


def test_gradients_run_on_ampere_s_kernels_and_say_why() -> None:
    for name in ("dgrad", "wgrad"):
        plan = plan_of(name, SEVERAL_TILES, torch.float32, allow_tf32=True)
        assert "_sm80_" in plan["kernel"] and "wgmma transposes no float32" in plan["why"]


@pytest.mark.parametrize(
    ("conv", "why"),
    [
        (Conv(1, 20, 6, 5, 32), "too few channels to fill boxes of 32"),
        (Conv(1, 96, 6, 5, 96, groups=2), "not multiples of 32 would share boxes"),
        (Conv(1, 32, 4, 5, 32, padding=(129, 129), dilation=(129, 129)), "TMA's windows"),
    ],
    ids=str,
)
def test_what_tma_cannot_feed_takes_ampere_s_kernels_and_says_why(conv: Conv, why: str) -> None:
    plan = plan_of("fprop", conv, torch.float32, allow_tf32=True)
    assert "_sm80_" in plan["kernel"] and why in plan["why"]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
@pytest.mark.parametrize("multiprocessors", [1, 132])
def test_sums_of_whole_numbers_are_exact(problem: Conv, multiprocessors: int) -> None:
    # TF32 holds them, and their products and sums stay below 2^24: a wrong element shows, rounding does not.
    g = torch.Generator().manual_seed(1)
    x, weight, _ = (
        nhwc(torch.randint(-8, 9, t.shape, generator=g).float())
        for t in problem.random(torch.float32)
    )
    with emulated(allow_tf32=True, multiprocessors=multiprocessors):
        y = raw._conv_fprop(x, weight, *NOTHING, False, *problem.geometry, False)[0]
    assert torch.equal(y.double(), problem.forward(x.double(), weight.double()))


ULP = 2.0**-10
VALUES = [1 + 0.75 * ULP, -1 - 0.5 * ULP, 1 + 1.5 * ULP, 1 + 0.25 * ULP, 2 - 0.5 * ULP]
TO_EVEN = [1 + ULP, -1.0, 1 + 2 * ULP, 1.0, 2.0]
FROM_ZERO = [1 + ULP, -1 - ULP, 1 + 2 * ULP, 1.0, 2.0]


@pytest.mark.parametrize(
    ("operand", "expected"), [("x", TO_EVEN), ("weight", TO_EVEN), ("x on load", FROM_ZERO)]
)
def test_operands_are_rounded_and_not_truncated(operand: str, expected: list[float]) -> None:
    # One product by 1 in each sum shows what became of the other operand.
    one = torch.zeros(1, 32, 1, 1)
    one[0, 0] = 1.0
    values = torch.tensor(VALUES).view(-1, 1, 1, 1) * one
    x, weight = (one, values) if operand == "weight" else (values, one)
    on_load = (torch.ones(32), torch.zeros(32)) if operand == "x on load" else (None, None)
    floor = torch.full((32,), -10.0) if operand == "x on load" else None
    geometry = Conv(1, 32, 1, 1, 1, **POINTWISE).geometry
    with emulated(allow_tf32=True) as emulator:
        y = raw._conv_fprop(
            nhwc(x),
            nhwc(weight),
            *on_load,
            None,
            None,
            None,
            False,
            *geometry,
            False,
            x_floor=floor,
        )[0]
        assert "_sm90_" in emulator.launches()[0]["kernel"]
    assert y.flatten().tolist() == expected


def test_what_is_normalised_on_load_is_rounded_once() -> None:
    # Far from zero compared with its spread: rounded before it is normalised, it would lose nearly all of that.
    conv = Conv(2, 64, 9, 9, 64, **POINTWISE)
    x, weight, _ = conv.random(torch.float32)
    x = x * 2.0**-9 + 4.0
    scale, bias = torch.full((64,), 2.0**9), torch.full((64,), -4.0 * 2.0**9)
    with emulated(allow_tf32=True) as emulator:
        y = raw._conv_fprop(x, weight, scale, bias, None, None, None, False, *conv.geometry, False)[
            0
        ]
        assert "_sm90_" in emulator.launches()[0]["kernel"]
    exact = conv.forward(torch.relu(x.double() * 2.0**9 - 4.0 * 2.0**9), weight.double())
    error = (y.double() - exact).abs().max() / exact.abs().max()
    assert error < 2.0**-10, f"relative error {error:.1e}"


def test_checked_mode_finds_no_fault(fusion: str) -> None:
    check_no_fault(fusions(SEVERAL_TILES)[fusion], multiprocessors=2, allow_tf32=True)


def test_results_are_bitwise_equal_under_20_schedules_and_completions(fusion: str) -> None:
    run = fusions(SEVERAL_TILES)[fusion]
    gpu = {"tma": "random", "wgmma": "random", "multiprocessors": 2, "allow_tf32": True}
    check_every_schedule_gives_equal_bits(run, fusion, **gpu)


def test_bank_conflicts_stay_below_a_tenth(fusion: str) -> None:
    check_bank_conflicts(fusions(SEVERAL_TILES)[fusion], multiprocessors=2, allow_tf32=True)
