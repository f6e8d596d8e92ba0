"""Shortcut option A: whoever ends a block reads every stride-th pixel of its input and adds zeros for the channels that
it does not have; whoever begins it spreads the gradient back. Neither is ever a tensor in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from pass_checks import GENERATIONS, check_every_schedule_gives_equal_bits, check_no_fault
from passes import Conv, nhwc, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.ops import ZeroPad
from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
CONVOLUTIONS = [
    Conv(2, 64, 9, 7, 72, r=1, s=1, padding=(0, 0)),
    Conv(2, 24, 7, 6, 40),
    Conv(1, 24, 9, 8, 72, stride=(2, 2)),
    Conv(1, 64, 7, 6, 64, groups=8),
    Conv(1, 16, 8, 8, 16, groups=16),
    Conv(2, 64, 16, 16, 64),  # halo tiles on Hopper
    Conv(2, 13, 6, 7, 9),
]


@dataclass(frozen=True)
class Sample:
    """stride, the channels that are missing, and the pixels of an image behind its last sample."""

    stride: int
    missing: int
    behind: int = 0

    def image(self, like: Tensor) -> Tensor:
        """What is sampled in the shape of `like`."""
        n, k, p, q = like.shape
        h, w = ((size - 1) * self.stride + 1 + self.behind for size in (p, q))
        g = torch.Generator().manual_seed(3)
        image = torch.randn(n, k - self.missing, h, w, generator=g, dtype=torch.float64)
        return nhwc(image.to(like.dtype))


SAMPLES = [Sample(2, 8), Sample(2, 8, behind=1), Sample(2, 0), Sample(1, 8), Sample(3, 3, 2)]


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


def padded(image: Tensor, sample: Sample, like: Tensor) -> Tensor:
    return nhwc(ZeroPad(sample.stride, like.shape[1])(image))


def ends(
    conv: Conv, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, dict[str, Callable[..., tuple[Tensor, ...]]]]:
    """A tensor of the output's shape, and both passes that end a block as functions of the residual."""
    x, weight, y = (t.to(device) for t in conv.random(dtype))
    scale, bias, of_residual = (vector(conv.k, dtype, seed).to(device) for seed in (1, 2, 3))
    bits = conv.k // conv.groups % 8 == 0

    def fprop(residual: Tensor, **how: int) -> tuple[Tensor, ...]:
        affine = (None, None, scale, bias, residual, True)
        return raw._conv_fprop(
            *(x, weight, *affine, *conv.geometry, False),
            **how,
            residual_scale=of_residual,
            mask=bits,
        )

    def bn_apply(residual: Tensor, **how: int) -> tuple[Tensor, ...]:
        return raw._bn_apply(
            y, scale, bias, residual, True, True, residual_scale=of_residual, **how
        )

    return y, {"fprop": fprop, "bn_apply": bn_apply}


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
@pytest.mark.parametrize("conv", CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sampled_residual_gives_the_bits_of_a_stored_one(
    conv: Conv, dtype: torch.dtype, sample: Sample, device: str
) -> None:
    y, passes = ends(conv, dtype, device)
    image = sample.image(y).to(device)
    for name, run in passes.items():
        expected = run(padded(image, sample, y))
        for a, b in zip(run(image, residual_stride=sample.stride), expected, strict=True):
            assert torch.equal(a, b), f"{name} must add what a sampled and padded tensor would"


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
@pytest.mark.parametrize("channels", [5, 24, 40])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_spread_gradient_gives_the_bits_of_a_stored_one(
    channels: int, dtype: torch.dtype, sample: Sample, device: str
) -> None:
    y, dz = (nhwc(torch.randn(2, channels, 7, 6, dtype=torch.float64).to(dtype)) for _ in range(2))
    shape = ZeroPad(sample.stride, channels + sample.missing).shape(y.shape)
    g = nhwc(torch.randn(*shape, dtype=torch.float64).to(dtype))
    spread = torch.zeros_like(y)
    spread[:, :, :: sample.stride, :: sample.stride] = g[:, :channels]
    coefficients = torch.stack([vector(channels, dtype, seed) for seed in range(4)])
    common = [t.to(device) for t in (dz, y)], coefficients.to(device)

    def dx(addend: Tensor, **how: int) -> Tensor:
        (dz_, y_), c = common
        return raw._bn_backward_apply(
            dz_, y_, None, None, None, c, False, addend=addend.to(device), **how
        )[0]

    assert torch.equal(dx(g, addend_stride=sample.stride), dx(spread))


def sampled(name: str, conv: Conv, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...]]:
    if name == "bn_backward_apply":
        y, dz, g = (nhwc(torch.randn(2, c, s, s).to(dtype)) for c, s in ((24, 9), (24, 9), (40, 5)))
        c = torch.stack([vector(24, dtype, seed) for seed in range(4)])
        return lambda: raw._bn_backward_apply(
            dz, y, None, None, None, c, False, addend=g, addend_stride=2
        )
    y, passes = ends(conv, dtype)
    image = SAMPLES[0].image(y)
    return lambda: passes[name](image, residual_stride=2)


NAMES = ["fprop", "bn_apply", "bn_backward_apply"]


@pytest.mark.parametrize("name", NAMES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    run = sampled(name, CONVOLUTIONS[2], torch.bfloat16)
    check_every_schedule_gives_equal_bits(run, name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("conv", [CONVOLUTIONS[1], CONVOLUTIONS[-1]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_checked_mode_finds_no_fault(conv: Conv, dtype: torch.dtype, name: str) -> None:
    check_no_fault(sampled(name, conv, dtype))


def test_only_what_is_sampled_is_read(capability: tuple[int, int]) -> None:
    conv, sample = CONVOLUTIONS[2], Sample(2, 8)
    x, weight, _ = conv.random(torch.bfloat16)
    y, passes = ends(conv, torch.bfloat16)
    image = sample.image(y)
    read = padded(image, sample, y)[:, : image.shape[1]].nbytes
    vectors = 3 * conv.k * 4
    with emulated(count=True, capability=capability) as emulator:
        for run in passes.values():
            run(image, residual_stride=2)
        fprop, bn_apply = (launch["counters"] for launch in emulator.launches())
    assert bn_apply["distinct_load_bytes"] == y.nbytes + read + vectors
    assert fprop["distinct_load_bytes"] == x.nbytes + weight.nbytes + read + vectors
    assert fprop["global_store_bytes"] == y.nbytes + y.numel() // 8
