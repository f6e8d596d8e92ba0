"""What only an emulator can see: races, the same bits under every schedule, and the bytes each kernel moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from passes import Conv, nhwc, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda

CONV = Conv(2, 20, 9, 7, 70, stride=(2, 1), padding=(1, 1))
SPLIT = Conv(1, 3, 40, 33, 5)


def normal(*size: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nhwc(torch.randn(*size, generator=g, dtype=torch.float64).to(dtype))


def every_pass(
    dtype: torch.dtype,
) -> Iterator[tuple[str, Callable[[], tuple[Tensor, ...] | Tensor]]]:
    """Each kernel family once, with every optional input present somewhere."""
    x, weight, dy = CONV.random(dtype)
    channels = [vector(CONV.c, dtype, seed) for seed in range(3)]
    filters = [vector(CONV.k, dtype, seed, 0.1, 1.0) for seed in range(4)]
    none6 = (None, None, None, None, None, False)
    yield (
        "fprop",
        lambda: raw._conv_fprop(
            x, weight, *channels[:2], *filters[:2], dy, True, *CONV.geometry, False
        ),
    )
    yield "fprop_stats", lambda: raw._conv_fprop(x, weight, *none6, *CONV.geometry, True)
    yield (
        "dgrad",
        lambda: raw._conv_dgrad(dy, weight, list(x.shape), x, x, *channels, *CONV.geometry),
    )
    sx, sw, sdy = SPLIT.random(dtype)
    on_load = [vector(3, dtype, 1), vector(3, dtype, 2)]
    yield "wgrad", lambda: raw._conv_wgrad(sdy, sx, list(sw.shape), *on_load, *SPLIT.geometry)
    pixels, p_weight = normal(2, 20, 6, 6, dtype=dtype), normal(24, 20, 1, 1, dtype=dtype)
    short, s_weight = normal(2, 7, 12, 12, dtype=dtype), normal(24, 7, 1, 1, dtype=dtype)
    expand = [vector(24, dtype, seed) for seed in range(4)]
    yield "reduce", lambda: raw._bottleneck_reduce(pixels, p_weight, *expand[:2], 2, True, False)
    yield (
        "expand",
        lambda: raw._bottleneck_expand(
            pixels, p_weight, *expand[:2], short, s_weight, *expand[2:], 2, True, False
        ),
    )
    y = normal(3, 35, 9, 7, dtype=dtype)
    stats = [vector(35, dtype, seed) for seed in range(2)]

    def batch_norm() -> tuple[Tensor, ...]:
        mean, invstd, scale, bias = raw._bn_finalize(
            raw._bn_statistics(y), 189, *stats, stats[0].clone(), stats[1].clone(), 0.1, 1e-5
        )
        z, mask = raw._bn_apply(y, scale, bias, y, True, True)
        partials = raw._bn_backward_reduce(z, y, mean, mask, None, None)
        dgamma, dbeta, c = raw._bn_backward_finalize(partials, 189, stats[0], mean, invstd, True)
        return (z, mask, dgamma, dbeta, *raw._bn_backward_apply(z, y, mask, None, None, c, True))

    yield "batch_norm", batch_norm

    def add_relu() -> tuple[Tensor, ...]:
        z, mask = raw._add_relu_forward(
            y, y.flip(0).contiguous(memory_format=torch.channels_last), True
        )
        return z, mask, raw._add_relu_backward(z, mask)

    yield "add_relu", add_relu

    def pools() -> tuple[Tensor, ...]:
        z, argmax = raw._max_pool_forward(y, 3, 2, 1, True)
        mean = raw._global_avg_pool_forward(y)
        return (
            z,
            raw._max_pool_backward(z, argmax, list(y.shape), 3, 2, 1),
            mean,
            raw._global_avg_pool_backward(mean, list(y.shape)),
        )

    yield "pools", pools


def outputs(run: Callable[[], tuple[Tensor, ...] | Tensor]) -> tuple[Tensor, ...]:
    result = run()
    return result if isinstance(result, (tuple, list)) else (result,)


NAMES = [name for name, _ in every_pass(torch.float32)]
SCHEDULES = [("round_robin", 1), ("reversed", 1)] + [("random", seed) for seed in range(1, 19)]


def pass_named(name: str, dtype: torch.dtype) -> Callable[[], tuple[Tensor, ...] | Tensor]:
    return dict(every_pass(dtype))[name]


@pytest.mark.parametrize("name", NAMES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    run = pass_named(name, torch.float32)
    with emulated():
        expected = outputs(run)
    for schedule, seed in SCHEDULES:
        with emulated(schedule=schedule, seed=seed):
            for index, (a, b) in enumerate(zip(outputs(run), expected, strict=True)):
                assert torch.equal(a, b), f"{name}: output {index} differs under {schedule} {seed}"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_checked_mode_finds_no_fault(name: str, dtype: torch.dtype) -> None:
    run = pass_named(name, dtype)
    for schedule, seed in [("round_robin", 1), ("reversed", 1), ("random", 5)]:
        with emulated(checked=True, schedule=schedule, seed=seed):
            outputs(run)  # a race, a stray access or an uninitialised read raises


BYTES = {torch.float64: 8, torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}
SIZE = (2, 64, 16, 12)
ELEMENTS = 2 * 64 * 16 * 12


@pytest.mark.parametrize("dtype", BYTES, ids=str)
def test_add_relu_moves_exactly_the_minimum(dtype: torch.dtype) -> None:
    x, residual = normal(*SIZE, dtype=dtype), normal(*SIZE, dtype=dtype, seed=1)
    with emulated(count=True) as emulator:
        z, mask = raw._add_relu_forward(x, residual, True)
        raw._add_relu_backward(z, mask)
        forward, backward = (launch["counters"] for launch in emulator.launches())
    width = BYTES[dtype]
    assert forward["distinct_load_bytes"] == 2 * ELEMENTS * width
    assert forward["distinct_store_bytes"] == ELEMENTS * width + ELEMENTS // 8
    assert forward["global_load_bytes"] == forward["distinct_load_bytes"], "every byte is read once"
    assert forward["global_store_bytes"] == forward["distinct_store_bytes"]
    assert backward["distinct_load_bytes"] == ELEMENTS * width + ELEMENTS // 8
    assert backward["distinct_store_bytes"] == ELEMENTS * width


@pytest.mark.parametrize("dtype", BYTES, ids=str)
@pytest.mark.parametrize("with_residual", [False, True])
def test_batch_norm_apply_moves_exactly_the_minimum(
    dtype: torch.dtype, with_residual: bool
) -> None:
    y, residual = normal(*SIZE, dtype=dtype), normal(*SIZE, dtype=dtype, seed=1)
    scale, bias = vector(64, dtype, 1), vector(64, dtype, 2)
    with emulated(count=True) as emulator:
        raw._bn_apply(y, scale, bias, residual if with_residual else None, True, False)
        (launch,) = emulator.launches()
    counters, width, acc = launch["counters"], BYTES[dtype], max(BYTES[dtype], 4)
    assert counters["distinct_load_bytes"] == (1 + with_residual) * ELEMENTS * width + 2 * 64 * acc
    assert counters["distinct_store_bytes"] == ELEMENTS * width
    if width == 2:
        sectors = counters["global_store_sectors"] * 32
        assert sectors == ELEMENTS * width, "16-bit stores must fill whole 32-byte sectors"


@pytest.mark.parametrize("name", ["fprop", "fprop_stats", "dgrad"])
def test_convolution_stores_its_output_once(name: str) -> None:
    with emulated(count=True) as emulator:
        y, partials = outputs(pass_named(name, torch.float32))
        (launch,) = emulator.launches()
    stored = 4 * (y.numel() + partials.numel())
    assert launch["counters"]["distinct_store_bytes"] == stored
    assert launch["counters"]["global_store_bytes"] == stored
