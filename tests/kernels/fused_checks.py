"""The 2x rule for a convolution's passes in their fusions, against fp64; torch's own error is taken to be one rounding.

That is the least that torch can have in 16 bits, whatever it sums in: sums here are in fp32 and are rounded once.
"""

from __future__ import annotations

import torch
from passes import Conv, class_tile_sums, normalise_relu, per_channel, tile_statistics, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_gradient_rule, check_rule

raw = torch.ops.resnet_cuda


def check_stored(actual: Tensor, exact: Tensor, name: str) -> None:
    """A result of fp32 sums that was rounded once."""
    check_rule(actual.cpu(), exact.to(actual.dtype), exact, name=name)


def check_fprop_and_its_statistics(conv: Conv, dtype: torch.dtype, device: str) -> None:
    x, weight, _ = conv.random(dtype)
    args = [t.to(device) for t in (x, weight)]
    y, partials = raw._conv_fprop(*args, None, None, None, None, None, False, *conv.geometry, True)
    check_stored(y, conv.forward(x.double(), weight.double()), "y")
    _check_statistics(y, partials)


def check_fprop_normalising_on_load(
    conv: Conv, dtype: torch.dtype, device: str, statistics: bool = False
) -> None:
    x, weight, _ = conv.random(dtype)
    scale, bias = vector(conv.c, dtype, 1), vector(conv.c, dtype, 2)
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, partials = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, statistics)
    activation = _normalised(x, scale, bias)
    check_stored(y, conv.forward(activation, weight.double()), "y")
    if statistics:
        _check_statistics(y, partials)


def check_fprop_epilogue(conv: Conv, dtype: torch.dtype, device: str, relu: bool) -> None:
    x, weight, residual = conv.random(dtype)
    scale, bias = vector(conv.k, dtype, 1), vector(conv.k, dtype, 2)
    to = [t.to(device) for t in (x, weight, scale, bias, residual)]
    y, _ = raw._conv_fprop(*to[:2], None, None, *to[2:], relu, *conv.geometry, False)
    exact = conv.forward(x.double(), weight.double()) * per_channel(scale.double())
    exact = exact + per_channel(bias.double()) + residual.double()
    check_stored(y, torch.relu(exact) if relu else exact, "y")


def check_dgrad_that_adds_gates_and_reduces(conv: Conv, dtype: torch.dtype, device: str) -> None:
    act, weight, dy = conv.random(dtype)
    addend = act.flip(0, 1).contiguous(memory_format=torch.channels_last)
    scale, bias, mean = (vector(conv.c, dtype, seed) for seed in (4, 5, 6))
    to = [t.to(device) for t in (dy, weight, addend, act, scale, bias, mean)]
    dx, partials = raw._conv_dgrad(to[0], to[1], list(act.shape), *to[2:], *conv.geometry)
    pre = act.double() * per_channel(scale.double()) + per_channel(bias.double())
    gate = pre.float().to(dtype) > 0  # as a fused multiply-add rounds
    exact = conv.dgrad(dy.double(), weight.double()) + addend.double()
    exact = torch.where(gate, exact, 0.0)
    check_gradient_rule(dx.cpu(), exact.to(dtype), exact, name="dx")
    stored = dx.cpu().double()
    moment = stored * (act.double() - per_channel(mean.double()))
    sums = class_tile_sums(stored, moment, conv.stride)
    torch.testing.assert_close(partials.cpu().double(), sums, rtol=1e-5, atol=1e-4)


def check_wgrad(conv: Conv, dtype: torch.dtype, device: str, normalise: bool) -> None:
    x, weight, dy = conv.random(dtype)
    scale, bias = vector(conv.c, dtype, 1), vector(conv.c, dtype, 2)
    on_load = [scale.to(device), bias.to(device)] if normalise else [None, None]
    dweight = raw._conv_wgrad(
        dy.to(device), x.to(device), list(weight.shape), *on_load, *conv.geometry
    )
    activation = _normalised(x, scale, bias) if normalise else x.double()
    exact = conv.wgrad(dy.double(), activation)
    check_gradient_rule(dweight.cpu(), exact.to(dtype), exact, name="dweight")


def _normalised(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Normalise-on-load rounds to x's type, as if the activation had been stored."""
    return normalise_relu(x.double(), scale.double(), bias.double()).to(x.dtype).double()


def _check_statistics(y: Tensor, partials: Tensor) -> None:
    torch.testing.assert_close(
        partials.cpu().double(), tile_statistics(y.cpu().double()), rtol=2e-5, atol=2e-5
    )
