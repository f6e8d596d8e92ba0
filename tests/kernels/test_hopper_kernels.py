"""Hopper's kernels, TMA and wgmma: every pass, prologue and epilogue where each block computes tile after tile, over
corners that boxes, tiles and classes of pixels care about."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from hopper_passes import hopper_passes
from pass_checks import (
    HOPPER,
    PASSES,
    check_bank_conflicts,
    check_dgrad,
    check_every_schedule_gives_equal_bits,
    check_fprop_normalises_on_load,
    check_no_fault,
    check_wgrad,
    kernels_of,
    launches,
    plan_of,
    raw,
    runs,
)
from passes import Conv
from test_tensor_core_kernels import test_the_projection_shares_the_expand_s_tile  # noqa: F401
from torch import Tensor

from resnet_cuda.testing import emulated
from resnet_cuda.testing.emulated import COMPLETIONS

POINTWISE = {"r": 1, "s": 1, "padding": (0, 0)}
# Tiles of 64, 128 and 256 columns, and several of them; rows and channels that are cut off; strides and classes of
# pixels without a tap; windows of every shape, padded by more and by less than keeps the image's size; dilation; groups
# of 64 channels; images of one pixel, and smaller than the window; squares of pixels that share their halos, several of
# them and one, of both passes and of fprop alone.
PROBLEMS = [
    Conv(1, 64, 1, 1, 64, **POINTWISE),
    Conv(2, 64, 9, 9, 128, **POINTWISE),
    Conv(1, 56, 6, 5, 56, **POINTWISE),
    Conv(2, 120, 11, 13, 72, **POINTWISE),
    Conv(3, 128, 10, 9, 256, stride=(2, 2), **POINTWISE),
    Conv(1, 64, 6, 5, 64, 1, 1, padding=(1, 2)),
    Conv(2, 64, 9, 7, 64),
    Conv(1, 64, 14, 13, 512, stride=(2, 2)),
    Conv(2, 64, 10, 9, 120, 1, 3, padding=(0, 1)),
    Conv(1, 120, 9, 8, 64),
    Conv(1, 64, 13, 11, 64, 3, 5, stride=(3, 1), padding=(1, 2)),
    Conv(1, 64, 8, 9, 128, 5, 5, padding=(1, 3)),
    Conv(1, 128, 10, 9, 64, padding=(2, 2), dilation=(2, 2)),
    Conv(1, 64, 9, 9, 192, stride=(2, 2), padding=(2, 2), dilation=(2, 2)),
    Conv(1, 128, 7, 6, 128, groups=2),
    Conv(1, 128, 9, 8, 256, stride=(2, 1), groups=2),
    Conv(1, 64, 2, 3, 64, 5, 5, padding=(2, 2)),
    Conv(3, 64, 16, 24, 64),
    Conv(1, 48, 8, 8, 56),
    Conv(5, 64, 6, 12, 56, padding=(2, 3)),
    # Rows of the output that TMA cannot store.
    Conv(2, 64, 9, 8, 20),
    Conv(1, 64, 8, 8, 20),
]
# Passes of these that Hopper's kernels do not take, and why.
ELSEWHERE = {
    ("dgrad", PROBLEMS[3]): "too few channels to fill boxes of 64",
    ("wgrad", PROBLEMS[9]): "would share boxes of TMA between taps",
    ("wgrad", PROBLEMS[18]): "would share boxes of TMA between taps",
    **{(name, conv): "not multiples of 8" for name in ("dgrad", "wgrad") for conv in PROBLEMS[20:]},
}


@pytest.fixture(params=[1, 2], ids="on {} multiprocessors".format)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(capability=HOPPER, multiprocessors=request.param):
        yield "cpu"


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.mark.parametrize("name", PASSES)
def test_hopper_s_kernels_take_every_pass_that_tma_can_feed(conv: Conv, name: str) -> None:
    kernel = kernels_of(runs(conv, torch.bfloat16)[name])[0]
    if why := ELSEWHERE.get((name, conv)):
        assert "_sm80_" in kernel and why in plan_of(name, conv, torch.bfloat16)["why"]
    else:
        assert "_sm90_" in kernel, f"{kernel}: {plan_of(name, conv, torch.bfloat16)['why']}"


# Where TMA or its boxes would not do; the first operand of each pass decides, wgrad's second.
FAR = Conv(1, 64, 4, 5, 64, padding=(129, 129), dilation=(129, 129))
REFUSED = {
    "groups whose channels are not multiples of 64": ("fprop", Conv(1, 192, 6, 5, 192, groups=2)),
    "would share boxes of TMA between taps": ("wgrad", Conv(1, 96, 6, 5, 64)),
    "too few channels to fill boxes": ("dgrad", Conv(1, 64, 6, 5, 72)),
    "beyond what TMA's windows describe": ("wgrad", FAR),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_tma_cannot_feed_takes_ampere_s_kernels_and_says_why(why: str) -> None:
    name, conv = REFUSED[why]
    assert why in plan_of(name, conv, torch.bfloat16)["why"]
    assert "_sm80_" in kernels_of(runs(conv, torch.bfloat16)[name])[0]
    with emulated(capability=HOPPER):
        if name == "fprop":
            check_fprop_normalises_on_load(conv, torch.bfloat16, "cpu", statistics=True)
        elif name == "dgrad":
            check_dgrad(conv, torch.bfloat16, "cpu")
        else:
            check_wgrad(conv, torch.bfloat16, "cpu", normalise=True)


# What keeps windows from sharing their pixels: a stride, dilation, another window, images that no squares cover, more
# channels or filters than stay in shared memory.
APART = [
    Conv(1, 64, 16, 16, 64, stride=(2, 2)),
    Conv(1, 64, 8, 8, 64, padding=(2, 2), dilation=(2, 2)),
    Conv(1, 64, 8, 8, 64, 3, 1, padding=(1, 0)),
    Conv(1, 64, 8, 9, 64),
    Conv(1, 128, 8, 8, 64),
    Conv(1, 64, 8, 8, 128),
]


@pytest.mark.parametrize("name", ["fprop", "dgrad"])
def test_windows_share_pixels_where_squares_cover_the_image(name: str) -> None:
    for options in ({}, {"narrow": True} if name == "dgrad" else {"normalises": True}):
        found = plan_of(name, Conv(1, 64, 8, 16, 64), torch.bfloat16, **options)
        assert found["kernel"] == f"conv_{name}_sm90_halo"
        assert found["tile"] == (192 if "narrow" in options else 256, 64, 64)
        assert "squares of pixels" in found["why"]
    for conv in APART:
        assert plan_of(name, conv, torch.bfloat16)["kernel"] == f"conv_{name}_sm90_im2col", conv


@pytest.mark.parametrize("multiprocessors", [1, 3, 132])
def test_squares_load_a_pixel_three_times_and_its_halo_and_blocks_load_filters_once(
    multiprocessors: int,
) -> None:
    conv = Conv(1, 64, 56, 56, 64)
    x, weight, _ = conv.random(torch.bfloat16)
    run = lambda: raw._conv_fprop(x, weight, *(None,) * 5, False, *conv.geometry, False)  # noqa: E731
    (launch,) = launches(run, multiprocessors=multiprocessors)
    assert launch["kernel"] == "conv_fprop_sm90_halo"
    squares = 7  # along each axis
    # Of each tap column 8 columns and 10 rows of a square, of which those behind the image's edges are no bytes.
    columns, rows = 3 * 8 * squares - 2, 10 * squares - 2
    blocks = launch["grid"][0]
    assert blocks == min(multiprocessors, 13)
    assert launch["counters"]["global_load_bytes"] == columns * rows * 128 + blocks * weight.nbytes


def as_list(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


@pytest.mark.parametrize("filters", [64, 128, 256])
def test_a_block_computes_several_tiles_as_wide_as_the_filters(filters: int) -> None:
    conv = Conv(2, 512, 14, 13, filters, **POINTWISE)
    x, weight, _ = conv.random(torch.bfloat16)
    none = (None,) * 5
    run = lambda: raw._conv_fprop(x, weight, *none, False, *conv.geometry, False)  # noqa: E731
    (launch,) = launches(run, multiprocessors=1)
    row_tiles = 3
    assert "_sm90_" in launch["kernel"]
    assert launch["grid"][0] < row_tiles, "no block computes more than one tile"
    loaded = launch["counters"]["global_load_bytes"]
    # Pairs of blocks load their filters once, which the emulator counts in each; the last pair is half empty.
    of_filters = row_tiles if filters == 64 else row_tiles + 1
    assert loaded <= x.nbytes + of_filters * weight.nbytes, "pixels are loaded for several tiles"


NAMES = list(hopper_passes())


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_listed_pass_runs_on_hopper_s_kernels(name: str) -> None:
    first, *others = kernels_of(hopper_passes()[name])
    assert "_sm90_" in first
    wrong = [kernel for kernel in others if "_sm80_" in kernel or "_simt_" in kernel]
    assert not wrong, f"{name} also ran {wrong}"


def test_checked_mode_finds_no_fault(name: str) -> None:
    # Two blocks of several tiles each: both what threads and what blocks could do to each other shows.
    check_no_fault(hopper_passes()[name], multiprocessors=2)


def test_results_are_bitwise_equal_under_20_schedules_and_completions(name: str) -> None:
    run = hopper_passes()[name]
    check_every_schedule_gives_equal_bits(
        run, name, tma="random", wgmma="random", multiprocessors=2
    )


def test_results_do_not_depend_on_when_tma_and_wgmma_complete(name: str) -> None:
    run = hopper_passes()[name]
    with emulated():
        expected = as_list(run())
    for tma in COMPLETIONS:
        for wgmma in COMPLETIONS:
            with emulated(tma=tma, wgmma=wgmma, seed=3, multiprocessors=1):
                for index, (a, b) in enumerate(zip(as_list(run()), expected, strict=True)):
                    assert torch.equal(a, b), f"output {index} with TMA {tma} and wgmma {wgmma}"


def test_results_do_not_depend_on_how_many_blocks_run_at_once(name: str) -> None:
    run = hopper_passes()[name]
    with emulated():
        expected = as_list(run())
    for multiprocessors in (1, 2, 7, 132):  # 132: a second run of the same
        with emulated(multiprocessors=multiprocessors):
            for index, (a, b) in enumerate(zip(as_list(run()), expected, strict=True)):
                assert torch.equal(a, b), f"output {index} on {multiprocessors} multiprocessors"


def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    check_bank_conflicts(hopper_passes()[name], multiprocessors=2)
