"""What a block's passes fuse for its training: shifted activations, the bits of a ReLU, a scaled shortcut, and another
branch's gradient that was sampled or gated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pass_checks import (
    GENERATIONS,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    rounded,
)
from passes import Conv, nhwc, pack_mask, per_channel, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_rule, emulated

raw = torch.ops.resnet_cuda
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
POINTWISE = {"r": 1, "s": 1, "padding": (0, 0)}
# Pixels as rows in pieces of 16 bytes, odd channels, windows, groups that are packed, one channel in each group.
UNPADDED = [
    Conv(2, 72, 9, 7, 136, stride=(2, 2), **POINTWISE),
    Conv(2, 13, 6, 7, 9, **POINTWISE),
    Conv(1, 24, 9, 8, 40, padding=(0, 0)),
    Conv(1, 32, 7, 6, 32, padding=(0, 0), groups=4),
    Conv(1, 16, 7, 6, 16, padding=(0, 0), groups=16),
]
# Whole pieces as pixels and as windows, with holes between strided outputs, and in groups.
IN_PIECES = [
    Conv(2, 64, 9, 7, 72, **POINTWISE),
    Conv(2, 24, 7, 6, 40),
    Conv(1, 24, 9, 8, 72, stride=(2, 2)),
    Conv(1, 64, 7, 6, 64, groups=8),
]


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def check(actual: Tensor, exact: Tensor, torchs: Tensor, *, name: str) -> None:
    """By the 2x rule; in fp64, which is itself the truth, to rounding."""
    if actual.dtype == torch.float64:
        torch.testing.assert_close(actual.cpu(), exact, rtol=1e-11, atol=1e-11, equal_nan=True)
    else:
        check_rule(actual.cpu(), torchs, exact, name=name)


def shifted(conv: Conv, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """The vectors of relu(x scale + bias) - k, and what the kernel must multiply: rounded to x's dtype."""
    scale, bias, k = (
        vector(conv.c, x.dtype, seed, low) for seed, low in ((1, -1.0), (2, -1.0), (3, 0.0))
    )
    bias, floor = bias - k, -k
    at = x.double() * per_channel(scale.double()) + per_channel(bias.double())
    return [scale, bias, floor], rounded(torch.maximum(at, per_channel(floor.double())), x)


@pytest.mark.parametrize("conv", UNPADDED, ids=str)
def test_fprop_and_wgrad_take_an_activation_shifted_by_a_floor(
    conv: Conv, dtype: torch.dtype, device: str
) -> None:
    x, weight, dy = conv.random(dtype)
    vectors, at = shifted(conv, x)
    to = [t.to(device) for t in (x, weight, dy, *vectors)]
    none = (None, None, None, False)
    y, *_ = raw._conv_fprop(*to[:2], *to[3:5], *none, *conv.geometry, False, x_floor=to[5])
    check(y, conv.forward(at, weight.double()), conv.forward(at.to(dtype), weight), name="y")
    size = list(weight.shape)
    dweight = raw._conv_wgrad(to[2], to[0], size, *to[3:5], *conv.geometry, x_floor=to[5])
    check(dweight, conv.wgrad(dy.double(), at), conv.wgrad(dy, at.to(dtype)), name="dweight")


def test_a_floor_of_minus_infinity_subtracts_and_nothing_else(
    dtype: torch.dtype, device: str
) -> None:
    conv = UNPADDED[0]
    g = torch.Generator().manual_seed(0)
    k = torch.randint(-8, 9, (conv.c,), generator=g).double()
    x = nhwc(torch.randint(-8, 9, (conv.n, conv.c, conv.h, conv.w), generator=g).to(dtype))
    x[0, 3, 4, 4] = torch.nan
    weight = conv.random(dtype)[1]
    ones, bias, floor = (
        v.to(vector(1, dtype, 0).dtype)
        for v in (torch.ones_like(k), -k, torch.full_like(k, -torch.inf))
    )
    none = (None, None, None, False)
    to = [t.to(device) for t in (x, weight, ones, bias, floor)]
    y, *_ = raw._conv_fprop(*to[:4], *none, *conv.geometry, False, x_floor=to[4])
    stored = nhwc((x.double() - per_channel(k)).to(dtype)).to(device)
    expected, *_ = raw._conv_fprop(stored, to[1], None, None, *none, *conv.geometry, False)
    assert torch.equal(y.nan_to_num(7.0), expected.nan_to_num(7.0)), "x - k on load, as if stored"
    assert torch.isnan(y[0, :, 2, 2]).all(), "NaN passes the floor"


def expand(
    x: Tensor,
    weight: Tensor,
    vectors: list[Tensor],
    residual: Tensor,
    conv: Conv,
    relu: bool,
    **more: Tensor | bool,
) -> tuple[Tensor, ...]:
    assert conv.r == 1
    return raw._bottleneck_expand(
        x, weight, *vectors, residual, None, None, None, 1, relu, False, **more
    )


def fprop(
    x: Tensor,
    weight: Tensor,
    vectors: list[Tensor],
    residual: Tensor,
    conv: Conv,
    relu: bool,
    **more: Tensor | bool,
) -> tuple[Tensor, ...]:
    return raw._conv_fprop(
        x, weight, None, None, *vectors, residual, relu, *conv.geometry, False, **more
    )


Forward = Callable[..., tuple[Tensor, ...]]
FORWARDS = [(fprop, conv) for conv in IN_PIECES] + [(expand, IN_PIECES[0])]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("forward", "conv"), FORWARDS, ids=[f"{run.__name__} {conv}" for run, conv in FORWARDS]
)
def test_the_shortcut_is_scaled_and_the_mask_says_what_passes(
    forward: Forward, conv: Conv, dtype: torch.dtype, relu: bool, device: str
) -> None:
    x, weight, residual = conv.random(dtype)
    residual[0, 1, 2, 3] = torch.nan
    vectors = [vector(conv.k, dtype, seed) for seed in (1, 2, 3)]
    to = [t.to(device) for t in (x, weight, residual, *vectors)]
    y, partials, mask = forward(
        *to[:2], to[3:5], to[2], conv, relu, residual_scale=to[5], mask=True
    )
    y, mask = y.cpu(), mask.cpu()
    exact, torchs = (
        conv.forward(x.to(t), weight.to(t)).to(u) * per_channel(a.to(u))
        + per_channel(b.to(u))
        + residual.to(u) * per_channel(c.to(u))
        for t, u in ((torch.float64, torch.float64), (dtype, vectors[0].dtype))
        for a, b, c in [vectors]
    )
    if relu:
        exact, torchs = torch.relu(exact), torch.relu(torchs)
    check(y, exact, torchs.to(dtype), name="y")
    assert torch.isnan(y).any(), "NaN passes"
    assert torch.equal(mask, pack_mask(~(y <= 0))), "a bit is not (y <= 0), of y as stored"
    assert partials.numel() == 0


def affine(x: Tensor, vectors: list[Tensor]) -> Tensor:
    scale, bias = (per_channel(v.to(x.dtype)) for v in vectors)
    return x * scale + bias


@pytest.mark.parametrize("stride", [1, 2])
def test_the_expand_and_its_projection_normalise_both_inputs_on_load(
    dtype: torch.dtype, stride: int, device: str
) -> None:
    expand = Conv(2, 24, 7, 9, 72, **POINTWISE)
    project = Conv(2, 40, 7 * stride, 9 * stride, 72, stride=(stride, stride), **POINTWISE)
    (x, weight, _), (short, p_weight, _) = expand.random(dtype), project.random(dtype, seed=1)
    (on_load, at), (p_on_load, p_at) = shifted(expand, x), shifted(project, short)
    vectors = [vector(72, dtype, seed) for seed in range(4)]
    to = [t.to(device) for t in (x, weight, *vectors[:2], short, p_weight, *vectors[2:])]
    named = dict(
        zip(("x_scale", "x_bias", "x_floor"), (v.to(device) for v in on_load), strict=True)
    )
    named |= {f"projection_{name}": v.to(device) for name, v in zip(named, p_on_load, strict=True)}
    z, _, mask = raw._bottleneck_expand(*to, stride, True, False, mask=True, **named)
    exact, torchs = (
        torch.relu(
            affine(expand.forward(at.to(t), weight.to(t)).to(acc), vectors[:2])
            + affine(project.forward(p_at.to(t), p_weight.to(t)).to(acc), vectors[2:])
        )
        for t, acc in ((torch.float64, torch.float64), (dtype, vectors[0].dtype))
    )
    check(z, exact, torchs.to(dtype), name="z")
    assert torch.equal(mask.cpu(), pack_mask(~(z.cpu() <= 0))), "a bit is not (z <= 0)"


@pytest.mark.parametrize("rounding_dtype", DTYPES[1:], ids=str)
def test_the_expand_normalises_on_load_beside_an_identity_shortcut(
    rounding_dtype: torch.dtype, device: str
) -> None:
    dtype = rounding_dtype
    conv = IN_PIECES[0]
    x, weight, residual = conv.random(dtype)
    on_load, at = shifted(conv, x)
    vectors = [vector(conv.k, dtype, seed).to(device) for seed in (1, 2)]
    named = dict(zip(("x_scale", "x_bias", "x_floor"), on_load, strict=True))
    named = {name: v.to(device) for name, v in named.items()}
    short, filters = residual.to(device), weight.to(device)
    z = expand(x.to(device), filters, vectors, short, conv, True, mask=True, **named)
    stored = expand(nhwc(at.to(dtype)).to(device), filters, vectors, short, conv, True, mask=True)
    for a, b in zip(z, stored, strict=True):
        assert torch.equal(a, b), "normalised on load, it must be what a stored activation gives"


class Addend:
    """Another branch's gradient of a convolution's input: of more channels, of pixels `stride` apart, behind a ReLU."""

    def __init__(self, conv: Conv, dtype: torch.dtype, stride: int, more: int, gated: bool) -> None:
        g = torch.Generator().manual_seed(7)
        size = conv.n, conv.c + more, (conv.h - 1) // stride + 1, (conv.w - 1) // stride + 1
        self.stride = stride
        self.values = nhwc(torch.randn(*size, generator=g, dtype=torch.float64).to(dtype))
        self.bits = nhwc(torch.rand(*size, generator=g)) < 0.5 if gated else None
        counted = self.values.double()
        if gated:
            counted = torch.where(self.bits, counted, 0.0)
        self.spread = torch.zeros(conv.n, conv.c, conv.h, conv.w, dtype=torch.float64)
        self.spread[:, :, ::stride, ::stride] = counted[:, : conv.c]

    def named(self, device: str) -> dict[str, Tensor | int]:
        if self.bits is None:
            return {"addend_stride": self.stride}
        return {"addend_stride": self.stride, "addend_mask": pack_mask(self.bits).to(device)}


ADDENDS = [(1, 0, True), (1, 8, False), (2, 8, True), (2, 0, False), (3, 16, True)]


@pytest.mark.parametrize(("stride", "more", "gated"), ADDENDS)
@pytest.mark.parametrize("conv", IN_PIECES, ids=str)
def test_dgrad_adds_a_branch_that_sampled_padded_or_gated_its_gradient(
    conv: Conv, dtype: torch.dtype, stride: int, more: int, gated: bool, device: str
) -> None:
    _, weight, dy = conv.random(dtype)
    addend = Addend(conv, dtype, stride, more, gated)
    size, none = [conv.n, conv.c, conv.h, conv.w], (None,) * 4
    to = [t.to(device) for t in (dy, weight, addend.values)]
    dx, _ = raw._conv_dgrad(*to[:2], size, to[2], *none, *conv.geometry, **addend.named(device))
    exact = conv.dgrad(dy.double(), weight.double()) + addend.spread
    torchs = conv.dgrad(dy, weight) + addend.spread.to(dtype)
    check(dx, exact, torchs, name="dx")


def test_an_addend_of_odd_channels_is_sampled_too(dtype: torch.dtype, device: str) -> None:
    conv = UNPADDED[1]
    _, weight, dy = conv.random(dtype)
    addend = Addend(conv, dtype, 2, 3, False)
    to = [t.to(device) for t in (dy, weight, addend.values)]
    size, none = [conv.n, conv.c, conv.h, conv.w], (None,) * 4
    dx, _ = raw._conv_dgrad(*to[:2], size, to[2], *none, *conv.geometry, addend_stride=2)
    exact = conv.dgrad(dy.double(), weight.double()) + addend.spread
    check(dx, exact, conv.dgrad(dy, weight) + addend.spread.to(dtype), name="dx")


def runs(conv: Conv, dtype: torch.dtype) -> dict[str, Callable[[], tuple[Tensor, ...] | Tensor]]:
    x, weight, dy = conv.random(dtype)
    affine = [vector(conv.k, dtype, seed) for seed in (1, 2)]
    scale = vector(conv.k, dtype, 3)
    addend = Addend(conv, dtype, 2, 8, True)
    named = addend.named("cpu")
    gate = [vector(conv.c, dtype, seed) for seed in (4, 5, 6)]
    return {
        "fprop": lambda: fprop(x, weight, affine, dy, conv, True, residual_scale=scale, mask=True),
        "dgrad": lambda: raw._conv_dgrad(
            dy, weight, list(x.shape), addend.values, x, *gate, *conv.geometry, **named
        ),
    }


@pytest.mark.parametrize("name", ["fprop", "dgrad"])
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    check_every_schedule_gives_equal_bits(runs(IN_PIECES[2], torch.bfloat16)[name], name)


@pytest.mark.parametrize("name", ["fprop", "dgrad"])
@pytest.mark.parametrize("checked_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("conv", IN_PIECES, ids=str)
def test_checked_mode_finds_no_fault(conv: Conv, checked_dtype: torch.dtype, name: str) -> None:
    check_no_fault(runs(conv, checked_dtype)[name])


def test_bits_cost_an_eighth_of_a_byte_and_the_rest_of_a_sampled_addend_is_not_read(
    capability: tuple[int, int],
) -> None:
    conv = IN_PIECES[0]
    x, weight, dy = conv.random(torch.bfloat16)
    addend = Addend(conv, torch.bfloat16, 2, conv.c, True)
    none = (None,) * 4
    with emulated(count=True, capability=capability) as emulator:
        fprop(x, weight, [None, None], dy, conv, True, mask=True)
        raw._conv_dgrad(
            dy, weight, list(x.shape), addend.values, *none, *conv.geometry, **addend.named("cpu")
        )
        forward, backward = (launch["counters"] for launch in emulator.launches())
    assert forward["global_store_bytes"] == dy.nbytes + dy.numel() // 8
    half = addend.values.nbytes // 2 + addend.values.numel() // 16
    assert backward["distinct_load_bytes"] == dy.nbytes + weight.nbytes + half
