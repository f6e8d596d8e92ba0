"""The tensor-core kernels: every pass, prologue and epilogue in 16 bits, over corners that their tiles care about."""

from __future__ import annotations

import pytest
import torch
from passes import (
    Conv,
    class_tile_sums,
    normalise_relu,
    per_channel,
    tile_statistics,
    vector,
)
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_gradient_rule, check_rule, emulated

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


def rounded(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).double()


def check_stored(actual: Tensor, exact: Tensor, name: str) -> None:
    """A result of fp32 sums that was rounded once."""
    check_rule(actual.cpu(), exact.to(actual.dtype), exact, name=name)


def test_fprop_and_its_statistics(conv: Conv, dtype: torch.dtype, device: str) -> None:
    x, weight, _ = conv.random(dtype)
    args = [t.to(device) for t in (x, weight)]
    y, partials = raw._conv_fprop(*args, None, None, None, None, None, False, *conv.geometry, True)
    check_stored(y, conv.forward(x.double(), weight.double()), "y")
    torch.testing.assert_close(
        partials.cpu().double(), tile_statistics(y.cpu().double()), rtol=2e-5, atol=2e-5
    )


def test_fprop_normalises_on_load_and_pads_after_the_activation(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    x, weight, _ = conv.random(dtype)
    scale, bias = vector(conv.c, dtype, 1), vector(conv.c, dtype, 2)
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, _ = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, False)
    activation = rounded(normalise_relu(x.double(), scale.double(), bias.double()), x)
    check_stored(y, conv.forward(activation, weight.double()), "y")


@pytest.mark.parametrize("relu", [False, True])
def test_fprop_epilogue_scales_adds_and_activates(
    conv: Conv, dtype: torch.dtype, device: str, relu: bool
) -> None:
    x, weight, residual = conv.random(dtype)
    scale, bias = vector(conv.k, dtype, 1), vector(conv.k, dtype, 2)
    to = [t.to(device) for t in (x, weight, scale, bias, residual)]
    y, _ = raw._conv_fprop(*to[:2], None, None, *to[2:], relu, *conv.geometry, False)
    exact = conv.forward(x.double(), weight.double()) * per_channel(scale.double())
    exact = exact + per_channel(bias.double()) + residual.double()
    check_stored(y, torch.relu(exact) if relu else exact, "y")


def test_dgrad_adds_gates_and_reduces(conv: Conv, dtype: torch.dtype, device: str) -> None:
    act, weight, dy = conv.random(dtype)
    addend = act.flip(0, 1).contiguous(memory_format=torch.channels_last)
    scale, bias, mean = (vector(conv.c, dtype, seed) for seed in (4, 5, 6))
    to = [t.to(device) for t in (dy, weight, addend, act, scale, bias, mean)]
    dx, partials = raw._conv_dgrad(to[0], to[1], list(act.shape), *to[2:], *conv.geometry)
    pre = act.double() * per_channel(scale.double()) + per_channel(bias.double())
    gate = pre.float().to(dtype) > 0  # as a fused multiply-add rounds
    exact = conv.dgrad(dy.double(), weight.double()) + addend.double()
    check_gradient_rule(
        dx.cpu(),
        torch.where(gate, exact, 0.0).to(dtype),
        torch.where(gate, exact, 0.0),
        name="dx",
    )
    stored = dx.cpu().double()
    moment = stored * (act.double() - per_channel(mean.double()))
    sums = class_tile_sums(stored, moment, conv.stride)
    torch.testing.assert_close(partials.cpu().double(), sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("normalise", [False, True])
def test_wgrad_is_the_weight_gradient(
    conv: Conv, dtype: torch.dtype, device: str, normalise: bool
) -> None:
    x, weight, dy = conv.random(dtype)
    scale, bias = vector(conv.c, dtype, 1), vector(conv.c, dtype, 2)
    on_load = [scale.to(device), bias.to(device)] if normalise else [None, None]
    dweight = raw._conv_wgrad(
        dy.to(device), x.to(device), list(weight.shape), *on_load, *conv.geometry
    )
    activation = x.double()
    if normalise:
        activation = rounded(normalise_relu(activation, scale.double(), bias.double()), x)
    exact = conv.wgrad(dy.double(), activation)
    check_gradient_rule(dweight.cpu(), exact.to(dtype), exact, name="dweight")


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
    aligned, groups = Conv(1, 16, 5, 5, 24), Conv(1, 16, 5, 5, 16, groups=2)
    assert kernels_of(runs(aligned, torch.bfloat16)[name])[0] == f"conv_{name}_sm80_im2col"
    assert kernels_of(runs(groups, torch.bfloat16)[name])[0] == f"conv_{name}_simt_im2col"
    assert kernels_of(runs(aligned, torch.float32)[name])[0] == f"conv_{name}_simt_im2col"


@pytest.mark.parametrize("name", PASSES)
def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    conv = Conv(2, 64, 16, 16, 128, 1, 1, padding=(0, 0))
    with emulated(count=True) as emulator:
        runs(conv, torch.bfloat16)[name]()  # type: ignore[operator]
        counters = emulator.launches()[0]["counters"]
    assert counters["shared_wavefronts"] <= 1.1 * counters["shared_wavefronts_ideal"], counters
