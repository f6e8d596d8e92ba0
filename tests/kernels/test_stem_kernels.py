"""Stems on tensor cores: the checks of the tensor-core kernels over problems of few channels, whose windows are read
out of the image in shared memory."""

from __future__ import annotations

import pytest
import torch
from every_convolution import (  # their `conv` is this file's
    DTYPES,
    dtype,  # noqa: F401
    test_fprop_and_its_statistics,  # noqa: F401
    test_fprop_epilogue_scales_adds_and_activates,  # noqa: F401
    test_wgrad_is_the_weight_gradient,  # noqa: F401
)
from pass_checks import check_every_schedule_gives_equal_bits, check_no_fault, kernels_of
from passes import Conv
from test_gathered_kernels import at_offset

from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda

# ImageNet's stem; 4 and 8 slots per pixel; one and several slices per filter row; output rows shorter and longer than a
# tile; several images in one tile; wide strides; holes between filter rows; images smaller than the window.
PROBLEMS = [
    Conv(1, 3, 30, 34, 64, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(2, 6, 12, 12, 16),
    Conv(1, 5, 9, 300, 8, 5, 4, padding=(2, 2)),
    Conv(1, 4, 11, 13, 72, 3, 10, stride=(1, 2), padding=(1, 4)),
    Conv(1, 7, 10, 20, 35, 5, 4, stride=(3, 2), padding=(2, 2)),
    Conv(40, 7, 3, 10, 12, 3, 3, stride=(2, 2)),
    Conv(3, 4, 16, 34, 24, 4, 8, stride=(4, 4), padding=(0, 1)),
    Conv(2, 7, 12, 9, 20, dilation=(2, 1), padding=(2, 1)),
    Conv(1, 3, 2, 8, 5, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(1, 5, 1, 4, 1, 1, 1, padding=(0, 0)),
]
STEM = PROBLEMS[0]


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


def run(conv: Conv, of: torch.dtype = torch.bfloat16):  # type: ignore[no-untyped-def]
    x, weight, _ = conv.random(of)
    return lambda: raw._conv_fprop(x, weight, *(None,) * 5, False, *conv.geometry, True)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_few_channels_are_read_out_of_the_image(problem: Conv) -> None:
    assert kernels_of(run(problem)) == ["conv_fprop_sm80_few_channels"]


def test_what_the_runs_cannot_hold_or_mostly_pad_is_gathered() -> None:
    wide_stride = Conv(1, 7, 5, 20, 8, 1, 4, stride=(1, 4), padding=(0, 0))
    wide_taps = Conv(1, 7, 9, 9, 8, dilation=(1, 2))
    short_rows = Conv(4, 7, 5, 2, 8)
    mostly_padding = Conv(1, 3, 32, 32, 64)
    for problem in (Conv(1, 9, 9, 9, 8), wide_stride, wide_taps, short_rows, mostly_padding):
        assert kernels_of(run(problem)) == ["conv_fprop_sm80_gathered"], str(problem)
    x, weight, _ = STEM.random(torch.bfloat16)
    vectors = [torch.ones(3), torch.zeros(3)]
    normalised = kernels_of(
        lambda: raw._conv_fprop(x, weight, *vectors, *(None,) * 3, False, *STEM.geometry, False)
    )
    assert normalised == ["conv_fprop_sm80_gathered"], "a stem has no batch norm to apply on load"


@pytest.mark.parametrize("of", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_a_pixel_outside_a_window_does_not_reach_its_output(
    problem: Conv, of: torch.dtype, device: str
) -> None:
    x, weight, _ = problem.random(of)
    x[..., x.shape[-1] // 2] = float("nan")
    none = (None,) * 5
    args = [t.to(device) for t in (x, weight)]
    y, *_ = raw._conv_fprop(*args, *none, False, *problem.geometry, False)
    exact = problem.forward(x.double(), weight.double())
    assert torch.equal(y.cpu().isnan(), exact.isnan()), "a NaN has spread to other outputs"


def test_unaligned_images_give_the_bits_of_aligned_ones(device: str) -> None:
    x, weight, _ = STEM.random(torch.float16)
    none = (None,) * 5
    expected = None
    for elements in (0, 1, 2):
        args = [at_offset(t, elements).to(device) for t in (x, weight)]
        y, *_ = raw._conv_fprop(*args, *none, False, *STEM.geometry, False)
        expected = y if expected is None else expected
        assert torch.equal(y, expected), f"tensors {elements} elements off give other bits"


@pytest.mark.parametrize("problem", [STEM, PROBLEMS[5]], ids=str)
def test_results_are_bitwise_equal_under_20_schedules(problem: Conv) -> None:
    check_every_schedule_gives_equal_bits(run(problem), str(problem))


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv) -> None:
    check_no_fault(run(problem))


def conflicts(problem: Conv) -> int:
    with emulated(checked=True, count=True) as emulator:  # only a checked run counts plain accesses
        run(problem)()
        counters = emulator.launches()[0]["counters"]
    assert counters["shared_store_bytes"] > 0
    return int(counters["shared_wavefronts"] - counters["shared_wavefronts_ideal"])


@pytest.mark.parametrize("channels,size,window,stride", [(3, 64, 7, 2), (7, 32, 3, 1)])
def test_the_main_loop_has_no_bank_conflicts(
    channels: int, size: int, window: int, stride: int
) -> None:
    few, many = (
        Conv(1, c, size, size, 64, window, window, (stride,) * 2, (window // 2,) * 2)
        for c in (channels, 8)
    )
    assert conflicts(few) <= conflicts(many), "more than the epilogue has behind any main loop"
