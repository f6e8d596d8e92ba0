"""Stems with their max-pool in one launch: the bits of two passes, and the convolution's output is never in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from every_convolution import DTYPES
from pass_checks import (
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    launches,
)
from passes import Conv, per_channel, vector
from test_gathered_kernels import at_offset
from torch import Tensor

from resnet_cuda.testing import check_rule, emulated

raw = torch.ops.resnet_cuda
WINDOW = (3, 2, 1)

# ImageNet's stem over whole and partial patches; even and odd sizes; one pooled row more than a patch has; several
# column tiles; K that is no multiple of 8; 4 and 8 slots per pixel; wide steps; many small images; a single pixel.
PROBLEMS = [
    Conv(1, 3, 60, 64, 64, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(2, 3, 31, 37, 64, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(1, 6, 17, 33, 70),
    Conv(1, 7, 10, 20, 135, 5, 4, stride=(3, 2), padding=(2, 2)),
    Conv(3, 4, 16, 34, 24, 4, 8, stride=(4, 4), padding=(0, 1)),
    Conv(40, 7, 3, 10, 12, 3, 3, stride=(2, 2)),
    Conv(2, 7, 12, 9, 20, dilation=(2, 1), padding=(2, 1)),
    Conv(1, 3, 2, 8, 5, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(2, 3, 1, 5, 8, 7, 7, stride=(2, 2), padding=(3, 4)),
]
STEM = PROBLEMS[0]
# Gathered, im2col, grouped, depthwise.
TWO_PASSES = [
    Conv(2, 3, 12, 12, 16),
    Conv(1, 7, 5, 2, 8),
    Conv(1, 8, 9, 9, 24, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(1, 32, 7, 7, 32, groups=8),
    Conv(1, 6, 9, 5, 6, groups=6),
    Conv(1, 3, 1, 1, 4, 7, 7, stride=(2, 2), padding=(3, 3)),
]


def given(conv: Conv, dtype: torch.dtype) -> list[Tensor]:
    """x, weight, scale, bias; some channels are turned round, some are dead."""
    x, weight, _ = conv.random(dtype)
    return [x, weight, vector(conv.k, dtype, 1), vector(conv.k, dtype, 2)]


def fused(conv: Conv, args: Sequence[Tensor]) -> Tensor:
    return raw._conv_max_pool(*args, *conv.geometry)


def two_passes(conv: Conv, args: Sequence[Tensor]) -> Tensor:
    x, weight, scale, bias = args
    z, *_ = raw._conv_fprop(x, weight, None, None, scale, bias, None, True, *conv.geometry, False)
    return raw._max_pool_forward(z, *WINDOW, False)[0]


def run(conv: Conv, dtype: torch.dtype = torch.bfloat16) -> Any:
    args = given(conv, dtype)
    return lambda: fused(conv, args)


def assert_same_bits(actual: Tensor, expected: Tensor, what: str) -> None:
    assert torch.equal(actual.isnan(), expected.isnan()), f"{what}: other elements are NaN"
    same = torch.equal(actual.nan_to_num(), expected.nan_to_num())
    assert same, f"{what}: not the bits of the convolution and the pool apart"


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_one_launch_does_it_all(problem: Conv) -> None:
    assert kernels_of(run(problem)) == ["conv_max_pool_sm80_few_channels"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_bits_are_those_of_the_convolution_and_the_pool(
    problem: Conv, dtype: torch.dtype, device: str
) -> None:
    args = [t.to(device) for t in given(problem, dtype)]
    assert_same_bits(fused(problem, args), two_passes(problem, args), str(problem))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_result_obeys_the_tolerance_rule(
    problem: Conv, dtype: torch.dtype, device: str
) -> None:
    args = given(problem, dtype)
    x, weight, scale, bias = (t.double() for t in args)
    exact = problem.forward(x, weight) * per_channel(scale) + per_channel(bias)
    exact = F.max_pool2d(torch.relu(exact), *WINDOW)
    y = fused(problem, [t.to(device) for t in args])
    check_rule(y.cpu(), exact.to(dtype), exact, name="y")


@pytest.mark.parametrize("problem", [*PROBLEMS[:3], PROBLEMS[5]], ids=str)
def test_nan_wins_and_infinity_beats_numbers(problem: Conv, device: str) -> None:
    for dtype in DTYPES:
        args = given(problem, dtype)
        x, weight, scale, _ = args
        x[:, 0, 0, 0] = float("nan")
        x[:, 0, -1, -1] = float("inf")
        x[:, 0, -1, 0] = -float("inf")
        weight[..., 0] = 0  # times infinity: NaN
        scale[:2] = 0
        args = [t.to(device) for t in args]
        expected = two_passes(problem, args)
        assert expected.isnan().any() and not expected.isnan().all()
        assert_same_bits(fused(problem, args), expected, f"{problem} {dtype}")


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("problem", TWO_PASSES, ids=str)
def test_what_is_not_read_out_of_the_image_is_pooled_in_a_second_pass(
    problem: Conv, dtype: torch.dtype, device: str
) -> None:
    assert kernels_of(run(problem, dtype))[1:] == ["max_pool_forward"]
    args = [t.to(device) for t in given(problem, dtype)]
    assert_same_bits(fused(problem, args), two_passes(problem, args), str(problem))


def test_float32_stems_are_pooled_in_a_second_pass() -> None:
    names = kernels_of(run(STEM, torch.float32))
    assert names == ["conv_fprop_simt_im2col", "max_pool_forward"]


def test_unaligned_tensors_give_the_bits_of_aligned_ones(device: str) -> None:
    for problem in (STEM, Conv(1, 8, 16, 24, 24, 7, 7, stride=(2, 2), padding=(3, 3))):
        args = given(problem, torch.float16)
        for elements in (1, 2):
            moved = [at_offset(t, elements).to(device) for t in args[:2]]
            moved += [t.to(device) for t in args[2:]]
            expected = two_passes(problem, moved)
            assert_same_bits(fused(problem, moved), expected, f"{elements} elements off")


@pytest.mark.parametrize("problem", [PROBLEMS[1], PROBLEMS[5], TWO_PASSES[0]], ids=str)
def test_results_are_bitwise_equal_under_20_schedules(problem: Conv) -> None:
    check_every_schedule_gives_equal_bits(run(problem), str(problem))


@pytest.mark.parametrize("problem", [*PROBLEMS, *TWO_PASSES], ids=str)
def test_checked_mode_finds_no_fault(problem: Conv) -> None:
    check_no_fault(run(problem))


@pytest.mark.parametrize("problem", [*PROBLEMS[:3], PROBLEMS[8]], ids=str)
def test_only_images_filters_vectors_and_the_pooled_output_are_in_memory(problem: Conv) -> None:
    args = given(problem, torch.bfloat16)
    (launch,) = launches(lambda: fused(problem, args))
    counters = launch["counters"]
    with emulated():
        y = fused(problem, args)
    operands = sum(t.numel() * t.element_size() for t in args)
    assert counters["distinct_load_bytes"] == operands, "an operand is not read, or something else"
    stored = y.numel() * y.element_size()
    assert counters["distinct_store_bytes"] == counters["global_store_bytes"] == stored


def test_stores_fill_their_sectors() -> None:
    (launch,) = launches(run(STEM))
    counters = launch["counters"]
    assert counters["global_store_sectors"] * 32 == counters["global_store_bytes"]


@pytest.mark.parametrize("problem", PROBLEMS[:3], ids=str)
def test_bank_conflicts_stay_below_a_tenth(problem: Conv) -> None:
    check_bank_conflicts(run(problem))


def test_products_are_those_of_the_patches() -> None:
    """7 x 8 pooled pixels in a tile of 256 rows: 8/7 of the products without overlap where patches are whole."""
    stem = Conv(1, 3, 56, 64, 64, 7, 7, stride=(2, 2), padding=(3, 3))  # 14 x 16 pooled
    x, weight, *_ = given(stem, torch.bfloat16)
    none = (None,) * 5
    (pooled,) = launches(run(stem))
    (alone,) = launches(lambda: raw._conv_fprop(x, weight, *none, False, *stem.geometry, False))
    assert 7 * multiply_adds(pooled) == 8 * multiply_adds(alone)


def multiply_adds(launch: Mapping) -> int:
    return int(launch["counters"]["mma_multiply_adds"])
