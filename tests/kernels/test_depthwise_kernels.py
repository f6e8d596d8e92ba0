"""Depthwise convolutions, which are summed directly: every pass, prologue and epilogue in every dtype."""

from __future__ import annotations

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from pass_checks import (
    PASSES,
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    raw,
    runs,
)
from passes import Conv

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def depthwise(n: int, c: int, h: int, w: int, *window: int, **geometry: tuple[int, int]) -> Conv:
    return Conv(n, c, h, w, c, *window, groups=c, **geometry)


# Fewer and more channels than a tile, in whole pieces and not; more taps than are published at once; strides,
# dilations, paddings; images smaller than the window.
PROBLEMS = [
    depthwise(2, 5, 7, 6),
    depthwise(1, 72, 9, 10),
    depthwise(2, 67, 11, 9, stride=(2, 2)),
    depthwise(1, 8, 13, 11, 3, 5, stride=(3, 1), padding=(1, 2)),
    depthwise(1, 16, 9, 9, stride=(2, 2), padding=(2, 2), dilation=(2, 2)),
    depthwise(2, 24, 9, 8, 1, 1, padding=(0, 0)),
    depthwise(1, 24, 10, 9, 1, 1, stride=(2, 2), padding=(0, 0)),
    depthwise(1, 9, 12, 11, 9, 9, padding=(4, 4)),
    depthwise(1, 8, 2, 3, 5, 5, padding=(2, 2)),
]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


def test_double_precision_is_exact(conv: Conv, device: str) -> None:
    x, weight, dy = conv.random(torch.float64)
    x_, weight_, dy_ = (t.to(device) for t in (x, weight, dy))
    none = (None, None, None, None, None)
    y, *_ = raw._conv_fprop(x_, weight_, *none, False, *conv.geometry, False)
    dx, _ = raw._conv_dgrad(dy_, weight_, list(x.shape), *none, *conv.geometry)
    dweight = raw._conv_wgrad(dy_, x_, list(weight.shape), None, None, *conv.geometry)
    expected = conv.forward(x, weight), conv.dgrad(dy, weight), conv.wgrad(dy, x)
    for actual, exact in zip((y, dx, dweight), expected, strict=True):
        torch.testing.assert_close(actual.cpu(), exact, rtol=1e-11, atol=1e-11)


SPLIT = depthwise(2, 24, 24, 23)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    check_every_schedule_gives_equal_bits(runs(SPLIT, torch.bfloat16)[name], name)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    check_no_fault(runs(problem, torch.bfloat16)[name])


# wgrad shares nothing before its epilogue.
@pytest.mark.parametrize("name", ["fprop", "dgrad"])
def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    run = runs(depthwise(2, 64, 16, 16), torch.bfloat16)[name]
    check_bank_conflicts(run)


@pytest.mark.parametrize("name", PASSES)
def test_one_filter_per_channel_is_summed_directly(name: str) -> None:
    def kernel(conv: Conv, dtype: torch.dtype) -> str:
        return kernels_of(runs(conv, dtype)[name])[0]

    for dtype in (torch.float64, *DTYPES):
        assert kernel(depthwise(1, 12, 5, 5), dtype) == f"conv_{name}_simt_depthwise"
    two_filters = Conv(1, 12, 5, 5, 24, groups=12)
    assert kernel(two_filters, torch.float32) == f"conv_{name}_simt_im2col"
