"""Grouped convolutions on tensor cores: small groups in super-groups of 32 channels, larger ones as they are."""

from __future__ import annotations

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from pass_checks import (
    GENERATIONS,
    PASSES,
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    launches,
    raw,
    runs,
)
from passes import Conv

DTYPES = [torch.bfloat16, torch.float16]
# Groups of 4, 8, 16 and 32 channels; one super-group and several; fewer and more rows than a tile has; strides,
# dilations, paddings, windows of one tap and of more than wgrad's tile has; odd images, smaller than the window too.
PACKED = [
    Conv(1, 32, 7, 6, 32, groups=8),
    Conv(2, 96, 9, 9, 96, groups=12),
    Conv(1, 64, 11, 13, 64, stride=(2, 2), groups=4),
    Conv(2, 64, 6, 5, 64, groups=2),
    Conv(1, 32, 1, 1, 32, 1, 1, padding=(0, 0), groups=8),
    Conv(3, 64, 10, 9, 64, 1, 1, stride=(2, 2), padding=(0, 0), groups=8),
    Conv(1, 64, 13, 11, 64, 3, 5, stride=(3, 1), padding=(1, 2), groups=16),
    Conv(1, 32, 9, 9, 32, stride=(2, 2), padding=(2, 2), dilation=(2, 2), groups=2),
    Conv(1, 32, 2, 3, 32, 5, 5, padding=(2, 2), groups=4),
]
# Groups of 64 channels, of 24, of more filters than channels, and 8 channels that fill no super-group.
WHOLE = [
    Conv(1, 128, 7, 6, 128, groups=2),
    Conv(1, 48, 9, 8, 48, stride=(2, 2), groups=2),
    Conv(2, 16, 6, 5, 48, groups=2),
    Conv(1, 24, 5, 7, 24, groups=3),
]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[*PACKED, *WHOLE], ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


SPLIT = Conv(2, 64, 24, 23, 64, groups=8)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    check_every_schedule_gives_equal_bits(runs(SPLIT, torch.bfloat16)[name], name)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", [*PACKED, *WHOLE], ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    check_no_fault(runs(problem, torch.bfloat16)[name])


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("channels", [4, 8, 16, 32])
def test_bank_conflicts_stay_below_a_tenth(channels: int, name: str) -> None:
    conv = Conv(2, 64, 16, 16, 64, groups=64 // channels)
    check_bank_conflicts(runs(conv, torch.bfloat16)[name])


@pytest.mark.parametrize("name", PASSES)
def test_groups_run_on_the_kernel_that_fits_their_channels(name: str) -> None:
    def kernel(
        c: int, k: int, groups: int, dtype: torch.dtype = torch.bfloat16, **gpu: tuple[int, int]
    ) -> str:
        return kernels_of(runs(Conv(1, c, 5, 5, k, groups=groups), dtype)[name], **gpu)[0]

    for channels in (4, 8, 16, 32):
        assert kernel(64, 64, 64 // channels) == f"conv_{name}_sm80_grouped", channels
    for capability, generation in GENERATIONS.items():
        assert kernel(128, 128, 2, capability=capability) == f"conv_{name}_{generation}_im2col", (
            "groups of 64 channels fill a tile"
        )
    assert kernel(32, 64, 4) == f"conv_{name}_sm80_im2col", "groups of 8 are whole pieces, K != C"
    assert kernel(32, 64, 8) == f"conv_{name}_simt_im2col", (
        "groups of 4 are packed only where K = C"
    )
    assert kernel(64, 64, 32) == f"conv_{name}_simt_im2col", "groups of 2 channels are not packed"
    assert kernel(64, 64, 8, torch.float32) == f"conv_{name}_simt_im2col"


@pytest.mark.parametrize("name", PASSES)
def test_products_of_different_groups_are_left_out(name: str) -> None:
    """Of 32 channels a group of 16 or fewer meets 16: half of the instructions that a group of 32 needs."""
    pixels, channels = 2 * 8 * 8, 64
    # A tap is 32 columns of wgrad's tile, which has four: 9 taps take three tiles.
    taps = 12 if name == "wgrad" else 9
    for group in (4, 8, 16, 32):
        conv = Conv(2, channels, 8, 8, channels, groups=channels // group)
        counted = launches(runs(conv, torch.bfloat16)[name])[0]["counters"]["mma_multiply_adds"]
        expected = pixels * channels * taps * max(group, 16)
        assert counted == expected, f"groups of {group}: {counted} products, expected {expected}"


def test_a_nan_reaches_no_further_than_the_channels_of_one_instruction(device: str) -> None:
    """Within them it does, as 0 times NaN is NaN (docs/numerics.md); wgrad keeps it within its group."""
    conv = Conv(1, 64, 5, 5, 64, groups=16)
    x, weight, dy = conv.random(torch.bfloat16)
    x[0, 0, 2, 2] = float("nan")
    y, *_ = raw._conv_fprop(
        x.to(device), weight.to(device), *[None] * 5, False, *conv.geometry, False
    )
    spread = y.cpu().isnan().any(dim=(0, 2, 3)).nonzero().flatten().tolist()
    assert spread == list(range(16)), f"channels {spread} are NaN"
    dweight = raw._conv_wgrad(
        dy.to(device), x.to(device), list(weight.shape), None, None, *conv.geometry
    )
    exact = conv.wgrad(dy.double(), x.double())
    assert torch.equal(dweight.cpu().isnan(), exact.isnan()), "a NaN left its group"
