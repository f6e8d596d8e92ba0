"""What every convolution kernel is checked for, whatever multiplies: all passes, prologues and epilogues against fp64
by the 2x rule, equal bits under every schedule, no fault in checked mode, few bank conflicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from passes import (
    Conv,
    class_tile_sums,
    in_squares,
    normalise_relu,
    per_channel,
    tile_statistics,
    vector,
)
from torch import Tensor

from resnet_cuda import _host, _selection
from resnet_cuda.testing import check_gradient_rule, check_rule, emulated

raw = torch.ops.resnet_cuda
PASSES = ("fprop", "dgrad", "wgrad")
# Compute capabilities of the GPUs whose generations of tensor-core kernels there are, and those kernels' names.
AMPERE, HOPPER = (8, 0), (9, 0)
GENERATIONS = {AMPERE: "sm80", HOPPER: "sm90"}
Run = Callable[[], "Tensor | tuple[Tensor, ...]"]


def launches(run: Run, *, checked: bool = False, **gpu: Any) -> list[Mapping]:
    """What the emulator counts of each launch. Checked, it also sees plain accesses to shared memory. gpu: what
    `emulated` is to play, here and below."""
    with emulated(count=True, checked=checked, **gpu) as emulator:
        run()
        return list(emulator.launches())


def kernels_of(run: Run, **gpu: Any) -> list[str]:
    return [launch["kernel"] for launch in launches(run, **gpu)]


def plan_of(name: str, conv: Conv, dtype: torch.dtype, **options: Any) -> dict:
    sizes = (conv.n, conv.c, conv.h, conv.w), (conv.k, conv.c // conv.groups, conv.r, conv.s)
    stride, padding, dilation, groups = conv.geometry
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return _host.conv_plan(name, str(dtype).removeprefix("torch."), *sizes, **geometry, **options)


def in_tiles(name: str, conv: Conv, result: Tensor, like: Tensor) -> Tensor:
    """The result of a pass over tensors like this, such that 64 rows in turn share a tile of its kernel."""
    capability = _selection.capability_of(like.device)
    kernel = plan_of(name, conv, like.dtype, capability=capability)["kernel"]
    return in_squares(result) if kernel.endswith("_halo") else result


def rounded(t: Tensor, like: Tensor) -> Tensor:
    return t.to(like.dtype).double()


def check_stored(actual: Tensor, exact: Tensor, name: str) -> None:
    """A result of fp32 sums that was rounded once."""
    check_rule(actual.cpu(), exact.to(actual.dtype), exact, name=name)


def check_fprop_and_its_statistics(conv: Conv, dtype: torch.dtype, device: str) -> None:
    x, weight, _ = conv.random(dtype)
    args = [t.to(device) for t in (x, weight)]
    y, partials, _ = raw._conv_fprop(
        *args, None, None, None, None, None, False, *conv.geometry, True
    )
    check_stored(y, conv.forward(x.double(), weight.double()), "y")
    check_statistics(conv, y, partials)


def check_fprop_normalises_on_load(
    conv: Conv, dtype: torch.dtype, device: str, statistics: bool = False
) -> None:
    x, weight, _ = conv.random(dtype)
    scale, bias = vector(conv.c, dtype, 1), vector(conv.c, dtype, 2)
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, partials, _ = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, statistics)
    activation = rounded(normalise_relu(x.double(), scale.double(), bias.double()), x)
    check_stored(y, conv.forward(activation, weight.double()), "y")
    if statistics:
        check_statistics(conv, y, partials)


def check_statistics(conv: Conv, y: Tensor, partials: Tensor) -> None:
    expected = tile_statistics(in_tiles("fprop", conv, y.cpu().double(), y))
    torch.testing.assert_close(partials.cpu().double(), expected, rtol=2e-5, atol=2e-5)


def check_fprop_epilogue(conv: Conv, dtype: torch.dtype, device: str, relu: bool) -> None:
    x, weight, residual = conv.random(dtype)
    scale, bias = vector(conv.k, dtype, 1), vector(conv.k, dtype, 2)
    to = [t.to(device) for t in (x, weight, scale, bias, residual)]
    y, *_ = raw._conv_fprop(*to[:2], None, None, *to[2:], relu, *conv.geometry, False)
    exact = conv.forward(x.double(), weight.double()) * per_channel(scale.double())
    exact = exact + per_channel(bias.double()) + residual.double()
    check_stored(y, torch.relu(exact) if relu else exact, "y")


def check_dgrad(conv: Conv, dtype: torch.dtype, device: str) -> None:
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
    stored, moment = (in_tiles("dgrad", conv, t, dx) for t in (stored, moment))
    sums = class_tile_sums(stored, moment, conv.stride)
    torch.testing.assert_close(partials.cpu().double(), sums, rtol=1e-5, atol=1e-4)


def check_wgrad(conv: Conv, dtype: torch.dtype, device: str, normalise: bool) -> None:
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


def runs(conv: Conv, dtype: torch.dtype) -> dict[str, Run]:
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


def check_every_schedule_gives_equal_bits(run: Run, name: str, **gpu: Any) -> None:
    as_list = lambda result: list(result) if isinstance(result, tuple) else [result]  # noqa: E731
    with emulated(**gpu):
        expected = as_list(run())
    schedules = [("reversed", 1)] + [("random", seed) for seed in range(1, 20)]
    for schedule, seed in schedules:
        with emulated(schedule=schedule, seed=seed, **gpu):
            for index, (a, b) in enumerate(zip(as_list(run()), expected, strict=True)):
                assert torch.equal(a, b), f"{name}: output {index} differs under {schedule} {seed}"


def check_no_fault(run: Run, **gpu: Any) -> None:
    for schedule, seed in [("round_robin", 1), ("random", 5)]:
        with emulated(checked=True, schedule=schedule, seed=seed, **gpu):
            run()  # a race, a stray access or an uninitialised read raises


def check_bank_conflicts(run: Run, **gpu: Any) -> None:
    counters = launches(run, checked=True, **gpu)[0]["counters"]
    assert counters["shared_store_bytes"] > 0, "only a checked run counts plain accesses"
    assert counters["shared_wavefronts_ideal"] > 0, "nothing was counted"
    assert counters["shared_wavefronts"] <= 1.1 * counters["shared_wavefronts_ideal"], counters
