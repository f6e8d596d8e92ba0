"""Ampere's tensor-core kernels: every pass, prologue and epilogue in 16 bits, over corners of problems and tiles."""

from __future__ import annotations

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from pass_checks import (
    AMPERE,
    PASSES,
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    check_stored,
    kernels_of,
    raw,
    runs,
)
from passes import Conv, per_channel, vector

from resnet_cuda import _host

# Fewer and more rows, columns and slices than a tile or a ring has; channels that are no multiple of a slice; taps that
# straddle a slice; the large tile; strides, dilations and paddings; images smaller than the window.
PROBLEMS = [
    Conv(1, 8, 1, 1, 8, 1, 1, padding=(0, 0)),
    Conv(2, 16, 7, 6, 24),
    Conv(2, 64, 9, 9, 128, 1, 1, padding=(0, 0)),
    Conv(3, 72, 10, 9, 136, 1, 1, stride=(2, 2), padding=(0, 0)),
    Conv(1, 24, 14, 13, 72, 3, 3, stride=(2, 2)),
    Conv(1, 8, 13, 11, 16, 3, 5, stride=(3, 1), padding=(1, 2)),
    Conv(2, 40, 10, 9, 64, padding=(2, 2), dilation=(2, 2)),
    Conv(1, 40, 9, 9, 24, stride=(2, 2), padding=(2, 2), dilation=(2, 2)),
    Conv(1, 16, 12, 12, 16, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(1, 8, 2, 3, 8, 5, 5, padding=(2, 2)),
    Conv(1, 200, 8, 8, 264, 1, 1, padding=(0, 0)),
]
# Enough outputs for tiles of 128 x 128.
LARGE = {
    "fprop": Conv(1, 24, 93, 93, 120, 1, 1, padding=(0, 0)),
    "dgrad": Conv(1, 120, 93, 93, 24, 1, 1, padding=(0, 0)),
    "wgrad": Conv(1, 120, 13, 13, 120, 1, 1, padding=(0, 0)),
}


@pytest.fixture
def capability() -> tuple[int, int]:
    return AMPERE


@pytest.fixture(params=[*PROBLEMS, *LARGE.values()], ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.mark.parametrize("name", PASSES)
def test_the_large_problems_need_large_tiles(name: str) -> None:
    conv = LARGE[name]
    x, weight, _ = conv.random(torch.bfloat16)
    sizes = x.shape, weight.shape
    plan = _host.conv_plan(name, "bfloat16", *sizes, padding=conv.padding, capability=AMPERE)
    assert plan["tile"] == (128, 128, 32)


def test_the_projection_shares_the_expand_s_tile(dtype: torch.dtype, device: str) -> None:
    expand, project = Conv(2, 24, 7, 9, 72, 1, 1, padding=(0, 0)), Conv(2, 40, 14, 17, 72, 1, 1)
    x, weight, _ = expand.random(dtype)
    short, project_weight, _ = project.random(dtype, seed=1)
    vectors = [vector(72, dtype, seed) for seed in range(4)]
    to = [t.to(device) for t in (x, weight, *vectors[:2], short, project_weight, *vectors[2:])]
    z, *_ = raw._bottleneck_expand(*to, 2, True, False)
    branch = expand.forward(x.double(), weight.double())
    shortcut = torch.nn.functional.conv2d(short.double(), project_weight.double(), stride=2)
    a, b, c, d = (per_channel(v.double()) for v in vectors)
    check_stored(z, torch.relu(branch * a + b + shortcut * c + d), "z")


SPLIT = Conv(2, 24, 24, 23, 72)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    check_every_schedule_gives_equal_bits(
        runs(SPLIT, torch.bfloat16)[name], name, capability=AMPERE
    )


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    check_no_fault(runs(problem, torch.bfloat16)[name], capability=AMPERE)


@pytest.mark.parametrize("name", PASSES)
def test_16_bit_convolutions_in_whole_pieces_run_on_tensor_cores(name: str) -> None:
    aligned, groups = Conv(1, 16, 5, 5, 24), Conv(1, 16, 5, 5, 16, groups=8)
    assert kernels_of(runs(aligned, torch.bfloat16)[name])[0] == f"conv_{name}_sm80_im2col"
    assert kernels_of(runs(groups, torch.bfloat16)[name])[0] == f"conv_{name}_simt_im2col"
    assert kernels_of(runs(aligned, torch.float32)[name])[0] == f"conv_{name}_simt_im2col"


@pytest.mark.parametrize("name", PASSES)
def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    conv = Conv(2, 64, 16, 16, 128, 1, 1, padding=(0, 0))
    check_bank_conflicts(runs(conv, torch.bfloat16)[name], capability=AMPERE)
