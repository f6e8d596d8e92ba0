"""Every convolution pass, prologue and epilogue against torch in fp64, over the awkward corners of the geometry."""

from __future__ import annotations

import pytest
import torch
from passes import (
    Conv,
    acc_dtype,
    class_tile_sums,
    nhwc,
    normalise_relu,
    per_channel,
    tile_statistics,
    vector,
)

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda

# Kernel sizes 1, 3, 5, 7; strides 1, 2, 3; padding 0 to 3; dilation 1, 2; groups 1, 2, C; odd channels;
# N = 1; images of one pixel.
PROBLEMS = [
    Conv(2, 5, 7, 6, 7),
    Conv(1, 1, 1, 1, 1, 1, 1, padding=(0, 0)),
    Conv(1, 3, 1, 1, 2),
    Conv(2, 8, 9, 9, 16, 1, 1, padding=(0, 0)),
    Conv(3, 7, 10, 9, 5, 1, 1, stride=(2, 2), padding=(0, 0)),
    Conv(2, 6, 8, 8, 4, 1, 1, stride=(3, 3), padding=(0, 0), groups=2),
    Conv(1, 6, 9, 8, 10, 1, 1, padding=(2, 2)),
    Conv(2, 4, 11, 12, 6, stride=(2, 2)),
    Conv(1, 4, 13, 11, 6, stride=(3, 3), padding=(2, 2), dilation=(2, 2)),
    Conv(2, 6, 9, 9, 8, 5, 5, stride=(2, 2), padding=(2, 2), groups=2),
    Conv(2, 6, 9, 10, 6, padding=(1, 1), groups=6),
    Conv(1, 3, 17, 15, 9, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(2, 4, 12, 9, 6, 3, 5, stride=(1, 2), padding=(0, 2), dilation=(2, 1), groups=2),
    Conv(1, 6, 9, 9, 12, 5, 5, padding=(0, 0), dilation=(2, 2), groups=3),
    Conv(2, 70, 6, 7, 66),
    Conv(1, 130, 9, 9, 65, 1, 1, padding=(0, 0)),
    Conv(1, 8, 14, 14, 8, 7, 7, padding=(3, 3), groups=8),
]
EXACT = {"rtol": 1e-11, "atol": 1e-11}


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.cpu(), expected, **EXACT)


def test_fprop_is_the_convolution(conv: Conv, device: str) -> None:
    x, weight, _ = conv.random(torch.float64)
    args = [t.to(device) for t in (x, weight)]
    y, partials, _ = raw._conv_fprop(
        *args, None, None, None, None, None, False, *conv.geometry, False
    )
    close(y, conv.forward(x, weight))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert partials.numel() == 0, "statistics were not asked for"


def test_fprop_normalises_on_load_and_pads_after_the_activation(conv: Conv, device: str) -> None:
    x, weight, _ = conv.random(torch.float64)
    scale, bias = vector(conv.c, x.dtype, 1), vector(conv.c, x.dtype, 2)
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, *_ = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, False)
    close(y, conv.forward(normalise_relu(x, scale, bias), weight))


@pytest.mark.parametrize("relu", [False, True])
def test_fprop_epilogue_scales_adds_and_activates(conv: Conv, device: str, relu: bool) -> None:
    x, weight, residual = conv.random(torch.float64)
    scale, bias = vector(conv.k, x.dtype, 1), vector(conv.k, x.dtype, 2)
    x_, weight_, scale_, bias_, residual_ = (
        t.to(device) for t in (x, weight, scale, bias, residual)
    )
    y, *_ = raw._conv_fprop(
        x_, weight_, None, None, scale_, bias_, residual_, relu, *conv.geometry, False
    )
    expected = conv.forward(x, weight) * per_channel(scale) + per_channel(bias) + residual
    close(y, torch.relu(expected) if relu else expected)


def test_fprop_statistics_are_those_of_each_row_tile(conv: Conv, device: str) -> None:
    x, weight, _ = conv.random(torch.float64)
    args = [t.to(device) for t in (x, weight)]
    y, partials, _ = raw._conv_fprop(
        *args, None, None, None, None, None, False, *conv.geometry, True
    )
    close(partials, tile_statistics(y.cpu()))


def test_dgrad_is_the_input_gradient(conv: Conv, device: str) -> None:
    _, weight, dy = conv.random(torch.float64)
    size = [conv.n, conv.c, conv.h, conv.w]
    dx, partials = raw._conv_dgrad(
        dy.to(device), weight.to(device), size, None, None, None, None, None, *conv.geometry
    )
    close(dx, conv.dgrad(dy, weight))
    assert partials.numel() == 0, "no batch-norm reduction was asked for"


def test_dgrad_epilogue_adds_gates_and_reduces(conv: Conv, device: str) -> None:
    act, weight, dy = conv.random(torch.float64)
    addend = nhwc(
        torch.randn(act.shape, dtype=act.dtype, generator=torch.Generator().manual_seed(3))
    )
    scale, bias, mean = (vector(conv.c, act.dtype, seed) for seed in (4, 5, 6))
    to = [t.to(device) for t in (dy, weight, addend, act, scale, bias, mean)]
    dx, partials = raw._conv_dgrad(to[0], to[1], list(act.shape), *to[2:], *conv.geometry)
    gate = act * per_channel(scale) + per_channel(bias) > 0
    expected = torch.where(gate, conv.dgrad(dy, weight) + addend, 0.0)
    close(dx, expected)
    moment = expected * (act - per_channel(mean))
    close(partials, class_tile_sums(expected, moment, conv.stride))


@pytest.mark.parametrize("normalise", [False, True])
def test_wgrad_is_the_weight_gradient(conv: Conv, device: str, normalise: bool) -> None:
    x, weight, dy = conv.random(torch.float64)
    scale, bias = vector(conv.c, x.dtype, 1), vector(conv.c, x.dtype, 2)
    on_load = [scale.to(device), bias.to(device)] if normalise else [None, None]
    dweight = raw._conv_wgrad(
        dy.to(device), x.to(device), list(weight.shape), *on_load, *conv.geometry
    )
    close(dweight, conv.wgrad(dy, normalise_relu(x, scale, bias) if normalise else x))


def test_wgrad_split_over_many_pixels_is_exact_and_repeatable(device: str) -> None:
    conv = Conv(2, 3, 40, 33, 5)  # 2,640 pixels: five ordered parts
    x, weight, dy = conv.random(torch.float64)
    args = (dy.to(device), x.to(device), list(weight.shape), None, None, *conv.geometry)
    first, second = raw._conv_wgrad(*args), raw._conv_wgrad(*args)
    close(first, conv.wgrad(dy, x))
    assert torch.equal(first, second), "wgrad must be bitwise repeatable"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_padding_stays_zero_where_the_activation_of_zero_is_not(
    dtype: torch.dtype, device: str
) -> None:
    conv = Conv(1, 4, 3, 3, 4, 3, 3, padding=(2, 2))
    x, weight = torch.zeros(1, 4, 3, 3, dtype=dtype), torch.ones(4, 4, 3, 3, dtype=dtype)
    scale, bias = torch.ones(4, dtype=acc_dtype(dtype)), torch.ones(4, dtype=acc_dtype(dtype))
    args = [nhwc(x).to(device), nhwc(weight).to(device), scale.to(device), bias.to(device)]
    y, *_ = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, False)
    expected = conv.forward(torch.ones(1, 4, 3, 3), torch.ones(4, 4, 3, 3))
    assert torch.equal(y.cpu().float(), expected), (
        "padding must be 0 after the activation, not relu(bias)"
    )


@pytest.mark.parametrize("gamma", [0.0, -1.0])
def test_gate_recomputed_from_zero_or_negative_gamma_is_right(gamma: float, device: str) -> None:
    conv = Conv(1, 6, 5, 5, 4)
    act, weight, dy = conv.random(torch.float64)
    scale = torch.full((6,), gamma, dtype=torch.float64)
    bias = torch.tensor([-1.0, 0.0, 1.0, -0.5, 0.5, 0.0], dtype=torch.float64)
    to = [t.to(device) for t in (dy, weight)]
    dx, _ = raw._conv_dgrad(
        *to,
        list(act.shape),
        None,
        act.to(device),
        scale.to(device),
        bias.to(device),
        None,
        *conv.geometry,
    )
    gate = act * per_channel(scale) + per_channel(bias) > 0
    close(dx, torch.where(gate, conv.dgrad(dy, weight), 0.0))
