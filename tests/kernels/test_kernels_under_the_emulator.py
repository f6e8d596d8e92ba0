"""What only an emulator can see: races, the same bits under every schedule, and the bytes each kernel moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from every_pass import every_pass, normal, outputs
from passes import vector
from torch import Tensor

from resnet_cuda.testing import emulated

raw = torch.ops.resnet_cuda

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
        y, partials, *_ = outputs(pass_named(name, torch.float32))
        (launch,) = emulator.launches()
    stored = 4 * (y.numel() + partials.numel())
    assert launch["counters"]["distinct_store_bytes"] == stored
    assert launch["counters"]["global_store_bytes"] == stored


def test_batch_norm_s_reductions_have_no_bank_conflicts() -> None:
    with emulated(checked=True, count=True) as emulator:
        outputs(pass_named("batch_norm", torch.float32))
        counted = {launch["kernel"]: launch["counters"] for launch in emulator.launches()}
    for kernel in ("bn_statistics", "bn_backward_reduce"):
        wavefronts = counted[kernel]["shared_wavefronts"]
        ideal = counted[kernel]["shared_wavefronts_ideal"]
        assert 0 < ideal and wavefronts <= 1.1 * ideal, f"{kernel}: {wavefronts} for {ideal}"
