"""The tensor-core kernels: every pass, prologue and epilogue in 16 bits, over corners that their tiles care about."""

from __future__ import annotations

import pytest
import torch
from fused_checks import (
    check_dgrad_that_adds_gates_and_reduces,
    check_fprop_and_its_statistics,
    check_fprop_epilogue,
    check_fprop_normalising_on_load,
    check_stored,
    check_wgrad,
)
from passes import Conv, per_channel, vector

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda
DTYPES = [torch.bfloat16, torch.float16]
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
LARGE = Conv(1, 16, 130, 130, 136, 1, 1, padding=(0, 0))  # enough rows for 128 x 128 tiles


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[*PROBLEMS, LARGE], ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


def kernels_of(run) -> list[str]:  # type: ignore[no-untyped-def]
    with emulated(count=True) as emulator:
        run()
        return [launch["kernel"] for launch in emulator.launches()]


def test_fprop_and_its_statistics(conv: Conv, dtype: torch.dtype, device: str) -> None:
    check_fprop_and_its_statistics(conv, dtype, device)


def test_fprop_normalises_on_load_and_pads_after_the_activation(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    check_fprop_normalising_on_load(conv, dtype, device)


@pytest.mark.parametrize("relu", [False, True])
def test_fprop_epilogue_scales_adds_and_activates(
    conv: Conv, dtype: torch.dtype, device: str, relu: bool
) -> None:
    check_fprop_epilogue(conv, dtype, device, relu)


def test_dgrad_adds_gates_and_reduces(conv: Conv, dtype: torch.dtype, device: str) -> None:
    check_dgrad_that_adds_gates_and_reduces(conv, dtype, device)


@pytest.mark.parametrize("normalise", [False, True])
def test_wgrad_is_the_weight_gradient(
    conv: Conv, dtype: torch.dtype, device: str, normalise: bool
) -> None:
    check_wgrad(conv, dtype, device, normalise)


def test_the_projection_shares_the_expand_s_tile(dtype: torch.dtype, device: str) -> None:
    expand, project = Conv(2, 24, 7, 9, 72, 1, 1, padding=(0, 0)), Conv(2, 40, 14, 17, 72, 1, 1)
    x, weight, _ = expand.random(dtype)
    short, project_weight, _ = project.random(dtype, seed=1)
    vectors = [vector(72, dtype, seed) for seed in range(4)]
    to = [t.to(device) for t in (x, weight, *vectors[:2], short, project_weight, *vectors[2:])]
    z, _ = raw._bottleneck_expand(*to, 2, True, False)
    branch = expand.forward(x.double(), weight.double())
    shortcut = torch.nn.functional.conv2d(short.double(), project_weight.double(), stride=2)
    a, b, c, d = (per_channel(v.double()) for v in vectors)
    check_stored(z, torch.relu(branch * a + b + shortcut * c + d), "z")


def runs(conv: Conv, dtype: torch.dtype) -> dict[str, object]:
    """Every pass, with what makes threads work together."""
    x, weight, dy = conv.random(dtype)
    on_load = [vector(conv.c, dtype, seed) for seed in (1, 2)]
    gate = [vector(conv.c, dtype, seed) for seed in (4, 5, 6)]
    none = (None, None, None, False)
    return {
        "fprop": lambda: raw._conv_fprop(x, weight, *on_load, *none, *conv.geometry, True),
        "dgrad": lambda: raw._conv_dgrad(dy, weight, list(x.shape), x, x, *gate, *conv.geometry),
        "wgrad": lambda: raw._conv_wgrad(dy, x, list(weight.shape), *on_load, *conv.geometry),
    }


PASSES = ("fprop", "dgrad", "wgrad")
SPLIT = Conv(2, 24, 24, 23, 72)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    run = runs(SPLIT, torch.bfloat16)[name]
    as_list = lambda result: list(result) if isinstance(result, tuple) else [result]  # noqa: E731
    with emulated():
        expected = as_list(run())  # type: ignore[operator]
    schedules = [("reversed", 1)] + [("random", seed) for seed in range(1, 20)]
    for schedule, seed in schedules:
        with emulated(schedule=schedule, seed=seed):
            for index, (a, b) in enumerate(zip(as_list(run()), expected, strict=True)):  # type: ignore[operator]
                assert torch.equal(a, b), f"{name}: output {index} differs under {schedule} {seed}"


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    run = runs(problem, torch.bfloat16)[name]
    for schedule, seed in [("round_robin", 1), ("random", 5)]:
        with emulated(checked=True, schedule=schedule, seed=seed):
            run()  # type: ignore[operator]  # a race, a stray access or an uninitialised read raises


@pytest.mark.parametrize("name", PASSES)
def test_16_bit_convolutions_in_whole_pieces_run_on_tensor_cores(name: str) -> None:
    aligned, odd = Conv(1, 16, 5, 5, 24), Conv(1, 12, 5, 5, 20)
    assert kernels_of(runs(aligned, torch.bfloat16)[name])[0] == f"conv_{name}_sm80_im2col"
    assert kernels_of(runs(odd, torch.bfloat16)[name])[0] == f"conv_{name}_simt_im2col"
    assert kernels_of(runs(aligned, torch.float32)[name])[0] == f"conv_{name}_simt_im2col"
