"""Odd channels and unaligned tensors on tensor cores: the checks of the tensor-core kernels over problems whose
operands do not come in whole, aligned 16 bytes."""

from __future__ import annotations

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from every_convolution import DTYPES
from pass_checks import (
    PASSES,
    check_bank_conflicts,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    runs,
)
from passes import Conv
from torch import Tensor

from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda

# Odd channels and odd filters of all sizes; both tiles' edges; windows of all kinds; classes of a strided dgrad without
# a tap; images smaller than the window; several images in one tile.
PROBLEMS = [
    Conv(1, 1, 1, 1, 1, 1, 1, padding=(0, 0)),
    Conv(2, 5, 7, 6, 3),
    Conv(3, 7, 10, 9, 12, 1, 1, stride=(2, 2), padding=(0, 0)),
    Conv(1, 12, 9, 7, 35, 5, 5, padding=(2, 2), dilation=(2, 1)),
    Conv(1, 35, 13, 11, 70, stride=(2, 3)),
    Conv(1, 70, 9, 8, 7, 1, 1, padding=(0, 0)),
    Conv(2, 64, 6, 5, 5),
    Conv(2, 3, 17, 16, 136, 3, 3),
    Conv(1, 3, 2, 3, 8, 5, 5, padding=(2, 2)),
    Conv(5, 12, 3, 4, 67, 3, 1, padding=(1, 0)),
    Conv(1, 9, 8, 8, 16, 2, 2, stride=(3, 3), padding=(0, 0)),
    Conv(
        2, 16, 5, 4, 3, 1, 1, stride=(2, 2), padding=(0, 0)
    ),  # such classes, where filters are copied
]
SPLIT = Conv(2, 35, 24, 23, 70)  # two parts of wgrad's reduction
COPIED = Conv(2, 35, 24, 23, 72)  # the output's gradient comes in whole pieces


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


def at_offset(t: Tensor, elements: int) -> Tensor:
    """The same values in memory that starts `elements` after an aligned address."""
    buffer = torch.empty(t.numel() + elements, dtype=t.dtype)
    n, c, h, w = t.shape
    return buffer[elements:].view(n, h, w, c).permute(0, 3, 1, 2).copy_(t)


@pytest.mark.parametrize("elements", [1, 2, 4])
@pytest.mark.parametrize("of_16_bits", DTYPES, ids=str)
def test_unaligned_tensors_give_the_bits_of_aligned_ones(
    of_16_bits: torch.dtype, elements: int, device: str
) -> None:
    conv = Conv(2, 24, 9, 7, 40, stride=(2, 1))
    tensors = [t.to(device) for t in conv.random(of_16_bits)]

    def results(x: Tensor, weight: Tensor, dy: Tensor) -> list[Tensor]:
        none = (None,) * 5
        return [
            raw._conv_fprop(x, weight, *none, False, *conv.geometry, False)[0],
            raw._conv_dgrad(dy, weight, list(x.shape), *none, *conv.geometry)[0],
            raw._conv_wgrad(dy, x, list(weight.shape), None, None, *conv.geometry),
        ]

    aligned = results(*tensors)
    for place in range(3):
        moved = [
            at_offset(t, elements).to(device) if i == place else t for i, t in enumerate(tensors)
        ]
        for name, a, b in zip(PASSES, results(*moved), aligned, strict=True):
            assert torch.equal(a, b), (
                f"{name} differs where operand {place} is {elements} elements off"
            )


@pytest.mark.parametrize("name", PASSES)
def test_odd_channels_and_odd_pointers_are_gathered(name: str) -> None:
    gathered = f"conv_{name}_sm80_gathered"
    for odd in (Conv(1, 12, 5, 5, 20), Conv(1, 35, 5, 5, 64), Conv(1, 35, 5, 5, 64, 1, 1)):
        assert kernels_of(runs(odd, torch.bfloat16)[name])[0] == gathered, str(odd)
    conv = Conv(1, 16, 5, 5, 24)
    x, weight, dy = (at_offset(t, 1) for t in conv.random(torch.float16))
    none = (None,) * 5
    run = {
        "fprop": lambda: raw._conv_fprop(x, weight, *none, False, *conv.geometry, False),
        "dgrad": lambda: raw._conv_dgrad(dy, weight, list(x.shape), *none, *conv.geometry),
        "wgrad": lambda: raw._conv_wgrad(dy, x, list(weight.shape), None, None, *conv.geometry),
    }[name]
    assert kernels_of(run)[0] == gathered


def test_the_bottleneck_s_ends_gather_odd_channels() -> None:
    conv = Conv(2, 35, 6, 5, 21, 1, 1, padding=(0, 0))
    x, weight, _ = conv.random(torch.bfloat16)
    reduce = kernels_of(lambda: raw._bottleneck_reduce(x, weight, None, None, 1, False, True))
    assert reduce == ["bottleneck_reduce_sm80_gathered"]
    ones, zeros = torch.ones(21), torch.zeros(21)
    none = (None,) * 4
    expand = kernels_of(
        lambda: raw._bottleneck_expand(x, weight, ones, zeros, *none, 1, True, False)
    )
    assert expand == ["bottleneck_expand_sm80_gathered"]
    short, project = x.clone(), weight.clone()
    both = (ones, zeros, short, project, ones, zeros)
    projected = kernels_of(lambda: raw._bottleneck_expand(x, weight, *both, 1, True, False))
    assert projected == ["bottleneck_expand_project_simt_gemm"]


def test_of_wgrad_s_operands_the_one_in_whole_pieces_is_copied() -> None:
    def sectors(filters: int, channels: int) -> int:
        conv = Conv(2, channels, 24, 24, filters)
        x, weight, dy = conv.random(torch.bfloat16)
        with emulated(count=True) as emulator:
            raw._conv_wgrad(dy, x, list(weight.shape), None, None, *conv.geometry)
            launch = emulator.launches()[0]
        assert launch["kernel"] == "conv_wgrad_sm80_gathered"
        return int(launch["counters"]["global_load_sectors"])

    assert sectors(128, 7) < 0.7 * sectors(127, 7), "the output's gradient is gathered"
    assert sectors(7, 64) < 0.7 * sectors(7, 63), "the input is gathered"


@pytest.mark.parametrize("name", [*PASSES, "wgrad with copies"])
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    problem = COPIED if "copies" in name else SPLIT
    check_every_schedule_gives_equal_bits(runs(problem, torch.bfloat16)[name.split()[0]], name)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    check_no_fault(runs(problem, torch.bfloat16)[name])


@pytest.mark.parametrize("name", PASSES)
def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    check_bank_conflicts(runs(SPLIT, torch.bfloat16)[name])
