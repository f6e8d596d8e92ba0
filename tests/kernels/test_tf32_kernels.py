"""float32 on tensor cores: every pass, prologue and epilogue against torch on operands rounded to TF32, and exact
float32 wherever TF32 is not allowed. Of Ampere's kernels; Hopper's own are in test_hopper_tf32_kernels.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pass_checks import AMPERE
from passes import (
    Conv,
    class_tile_sums,
    nhwc,
    normalise_relu,
    per_channel,
    tile_statistics,
    vector,
)
from tf32 import as_tf32, tf32_allowed
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda import _host
from resnet_cuda.testing import check_gradient_rule, check_rule, emulated

raw = torch.ops.resnet_cuda
# Fewer and more rows, columns and slices than a tile or a ring has; channels that are no multiple of a slice; taps that
# straddle a slice; the large tile; strides, dilations and paddings; images smaller than the window.
PROBLEMS = [
    Conv(1, 4, 1, 1, 4, 1, 1, padding=(0, 0)),
    Conv(2, 12, 7, 6, 20),
    Conv(2, 64, 9, 9, 128, 1, 1, padding=(0, 0)),
    Conv(3, 36, 10, 9, 132, 1, 1, stride=(2, 2), padding=(0, 0)),
    Conv(1, 20, 14, 13, 72, 3, 3, stride=(2, 2)),
    Conv(1, 4, 13, 11, 12, 3, 5, stride=(3, 1), padding=(1, 2)),
    Conv(2, 20, 10, 9, 32, padding=(2, 2), dilation=(2, 2)),
    Conv(1, 20, 9, 9, 24, stride=(2, 2), padding=(2, 2), dilation=(2, 2)),
    Conv(1, 4, 2, 3, 8, 5, 5, padding=(2, 2)),
    Conv(1, 100, 8, 8, 264, 1, 1, padding=(0, 0)),
]
NOTHING = (None, None, None, None, None)  # of a pass's optional inputs
ODD_FILTERS = Conv(2, 12, 7, 9, 35)  # rows of fprop's second operand: any number
PASSES = ("fprop", "dgrad", "wgrad")
# Enough outputs for tiles of 128 x 128.
LARGE = {
    "fprop": Conv(1, 12, 93, 93, 116, 1, 1, padding=(0, 0)),
    "dgrad": Conv(1, 116, 93, 93, 12, 1, 1, padding=(0, 0)),
    "wgrad": Conv(1, 116, 13, 13, 116, 1, 1, padding=(0, 0)),
}


@pytest.fixture(params=[*PROBLEMS, *LARGE.values()], ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.fixture
def device(device: str) -> Iterator[str]:
    """The device to put tensors on, where TF32 is allowed."""
    with tf32_allowed(device, capability=AMPERE):
        yield device


def kernels_of(run: Callable[[], object], **gpu: object) -> list[str]:
    with emulated(**{"allow_tf32": True, "capability": AMPERE, **gpu}) as emulator:
        run()
        return [launch["kernel"] for launch in emulator.launches()]


def random(conv: Conv) -> tuple[Tensor, Tensor, Tensor]:
    return conv.random(torch.float32)


def vectors(size: int, *seeds: int) -> list[Tensor]:
    return [vector(size, torch.float32, seed) for seed in seeds]


def test_rounding_to_tf32_keeps_10_bits_and_takes_ties_away_from_zero() -> None:
    ulp = 2.0**-10
    known = {
        1.0: 1.0,
        1 + ulp / 2: 1 + ulp,
        1 + ulp: 1 + ulp,
        1 + 1.5 * ulp: 1 + 2 * ulp,
        1 + 0.499 * ulp: 1.0,
        2 - ulp / 2: 2.0,
        3.0e-39: 3.0e-39 // 2.0**-136 * 2.0**-136,  # subnormal: the unit does not shrink
        0.0: 0.0,
        float("inf"): float("inf"),
        torch.finfo(torch.float32).max: float("inf"),
    }
    x = torch.tensor(list(known), dtype=torch.float32)
    expected = torch.tensor(list(known.values()), dtype=torch.float32)
    assert torch.equal(as_tf32(x), expected)
    assert torch.equal(as_tf32(-x), -expected)
    assert as_tf32(torch.tensor([float("nan")])).isnan().all()


@pytest.mark.parametrize("name", PASSES)
def test_the_large_problems_need_large_tiles(name: str) -> None:
    conv = LARGE[name]
    x, weight, _ = random(conv)
    plan = _host.conv_plan(
        name,
        "float32",
        x.shape,
        weight.shape,
        padding=conv.padding,
        allow_tf32=True,
        capability=AMPERE,
    )
    assert plan["tile"] == (128, 128, 16)


def test_fprop_and_its_statistics(conv: Conv, device: str) -> None:
    x, weight, _ = random(conv)
    args = [t.to(device) for t in (x, weight)]
    y, partials, _ = raw._conv_fprop(
        *args, None, None, None, None, None, False, *conv.geometry, True
    )
    torchs = conv.forward(as_tf32(x), as_tf32(weight))
    check_rule(y.cpu(), torchs, conv.forward(x.double(), weight.double()), name="y")
    torch.testing.assert_close(
        partials.cpu().double(), tile_statistics(y.cpu().double()), rtol=2e-5, atol=2e-5
    )


def test_fprop_normalises_on_load_and_pads_after_the_activation(conv: Conv, device: str) -> None:
    x, weight, _ = random(conv)
    scale, bias = vectors(conv.c, 1, 2)
    args = [t.to(device) for t in (x, weight, scale, bias)]
    y, *_ = raw._conv_fprop(*args, None, None, None, False, *conv.geometry, False)
    exact = normalise_relu(x.double(), scale.double(), bias.double())
    torchs = conv.forward(as_tf32(exact.float()), as_tf32(weight))
    check_rule(y.cpu(), torchs, conv.forward(exact, weight.double()), name="y")


@pytest.mark.parametrize("relu", [False, True])
def test_fprop_epilogue_scales_adds_and_activates(conv: Conv, device: str, relu: bool) -> None:
    x, weight, residual = random(conv)
    scale, bias = vectors(conv.k, 1, 2)
    to = [t.to(device) for t in (x, weight, scale, bias, residual)]
    y, *_ = raw._conv_fprop(*to[:2], None, None, *to[2:], relu, *conv.geometry, False)

    def epilogue(acc: Tensor) -> Tensor:
        z = acc * per_channel(scale.to(acc)) + per_channel(bias.to(acc)) + residual.to(acc)
        return torch.relu(z) if relu else z

    torchs = epilogue(conv.forward(as_tf32(x), as_tf32(weight)))
    check_rule(y.cpu(), torchs, epilogue(conv.forward(x.double(), weight.double())), name="y")


def test_dgrad_adds_gates_and_reduces(conv: Conv, device: str) -> None:
    act, weight, dy = random(conv)
    addend = act.flip(0, 1).contiguous(memory_format=torch.channels_last)
    scale, bias, mean = vectors(conv.c, 4, 5, 6)
    to = [t.to(device) for t in (dy, weight, addend, act, scale, bias, mean)]
    dx, partials = raw._conv_dgrad(to[0], to[1], list(act.shape), *to[2:], *conv.geometry)
    gate = act.double() * per_channel(scale.double()) + per_channel(bias.double()) > 0
    torchs = torch.where(gate, conv.dgrad(as_tf32(dy), as_tf32(weight)) + addend, 0.0)
    exact = torch.where(gate, conv.dgrad(dy.double(), weight.double()) + addend.double(), 0.0)
    check_gradient_rule(dx.cpu(), torchs, exact, name="dx")
    stored = dx.cpu().double()
    moment = stored * (act.double() - per_channel(mean.double()))
    sums = class_tile_sums(stored, moment, conv.stride)
    torch.testing.assert_close(partials.cpu().double(), sums, rtol=1e-5, atol=1e-4)


def test_fprop_takes_any_number_of_filters(device: str) -> None:
    x, weight, _ = random(ODD_FILTERS)
    args = [t.to(device) for t in (x, weight)]
    y, *_ = raw._conv_fprop(*args, *NOTHING, False, *ODD_FILTERS.geometry, False)
    torchs = ODD_FILTERS.forward(as_tf32(x), as_tf32(weight))
    check_rule(y.cpu(), torchs, ODD_FILTERS.forward(x.double(), weight.double()), name="y")


@pytest.mark.parametrize("normalise", [False, True])
def test_wgrad_is_the_weight_gradient(conv: Conv, device: str, normalise: bool) -> None:
    x, weight, dy = random(conv)
    scale, bias = vectors(conv.c, 1, 2)
    on_load = [scale.to(device), bias.to(device)] if normalise else [None, None]
    dweight = raw._conv_wgrad(
        dy.to(device), x.to(device), list(weight.shape), *on_load, *conv.geometry
    )
    exact = x.double()
    if normalise:
        exact = normalise_relu(exact, scale.double(), bias.double())
    torchs = conv.wgrad(as_tf32(dy), as_tf32(exact.float()))
    check_gradient_rule(dweight.cpu(), torchs, conv.wgrad(dy.double(), exact), name="dweight")


@pytest.fixture
def projection() -> tuple[Conv, Conv]:
    """An expand, and the projection beside it, of stride 2."""
    return Conv(2, 20, 7, 9, 72, 1, 1, padding=(0, 0)), Conv(2, 36, 14, 17, 72, 1, 1)


def test_the_projection_shares_the_expand_s_tile(
    projection: tuple[Conv, Conv], device: str
) -> None:
    expand, project = projection
    x, weight, _ = random(expand)
    short, project_weight, _ = project.random(torch.float32, seed=1)
    norms = vectors(72, 0, 1, 2, 3)
    to = [t.to(device) for t in (x, weight, *norms[:2], short, project_weight, *norms[2:])]
    z, *_ = raw._bottleneck_expand(*to, 2, True, False)

    def block(dtype: torch.dtype, *operands: Tensor) -> Tensor:
        a, b, c, d = (t.to(dtype) for t in operands)
        scale, bias, project_scale, project_bias = (per_channel(v.to(dtype)) for v in norms)
        shortcut = torch.nn.functional.conv2d(c, d, stride=2) * project_scale + project_bias
        return torch.relu(expand.forward(a, b) * scale + bias + shortcut)

    operands = (x, weight, short, project_weight)
    torchs = block(torch.float32, *map(as_tf32, operands))
    check_rule(z.cpu(), torchs, block(torch.float64, *operands), name="z")


@pytest.mark.parametrize("name", PASSES)
def test_sums_of_whole_numbers_are_exact(conv: Conv, name: str, device: str) -> None:
    # TF32 holds them, and their products and sums stay below 2^24: a wrong element shows, rounding does not.
    g = torch.Generator().manual_seed(1)
    x, weight, dy = (nhwc(torch.randint(-8, 9, t.shape, generator=g).float()) for t in random(conv))
    to = [t.to(device) for t in (x, weight, dy)]
    results = {
        "fprop": lambda: (
            raw._conv_fprop(*to[:2], *NOTHING, False, *conv.geometry, False)[0],
            conv.forward(x.double(), weight.double()),
        ),
        "dgrad": lambda: (
            raw._conv_dgrad(to[2], to[1], list(x.shape), *NOTHING, *conv.geometry)[0],
            conv.dgrad(dy.double(), weight.double()),
        ),
        "wgrad": lambda: (
            raw._conv_wgrad(to[2], to[0], list(weight.shape), None, None, *conv.geometry),
            conv.wgrad(dy.double(), x.double()),
        ),
    }
    actual, exact = results[name]()
    assert torch.equal(actual.cpu().double(), exact), f"{name} of whole numbers is not exact"


@pytest.mark.parametrize("operand", ["fprop x", "fprop weight", "dgrad weight", "wgrad x"])
def test_operands_are_rounded_and_not_truncated(operand: str, device: str) -> None:
    # One product by 1 in each sum shows what became of the other operand.
    ulp = 2.0**-10
    values = torch.tensor([1 + 0.75 * ulp, -1 - 0.5 * ulp, 1 + 0.25 * ulp, torch.finfo().max])
    geometry = Conv(1, 4, 1, 1, 4, 1, 1, padding=(0, 0)).geometry
    one = torch.zeros(1, 4, 1, 1, device=device)
    one[0, 0] = 1.0
    first = torch.zeros(4, 4, 1, 1, device=device)  # filter 0, or channel 0 of every filter
    if operand == "fprop x":
        first[0, :] = 1.0
        x = values.view(4, 1, 1, 1).to(device) * one
        got = raw._conv_fprop(
            nhwc(x), nhwc(one.expand(4, 4, 1, 1)), *NOTHING, False, *geometry, False
        )[0][:, 0]
    elif operand == "fprop weight":
        weight = values.view(4, 1, 1, 1).to(device) * one
        got = raw._conv_fprop(nhwc(one), nhwc(weight), *NOTHING, False, *geometry, False)[0][0]
    elif operand == "dgrad weight":
        first[0] = values.view(4, 1, 1)
        got = raw._conv_dgrad(nhwc(one), nhwc(first), [1, 4, 1, 1], *NOTHING, *geometry)[0][0]
    else:
        x = nhwc(values.view(1, 4, 1, 1).to(device))
        got = raw._conv_wgrad(nhwc(one), x, [4, 4, 1, 1], None, None, *geometry)[0]
    assert got.flatten().tolist() == as_tf32(values).tolist()


def runs(conv: Conv) -> dict[str, Callable[[], Tensor | tuple[Tensor, ...]]]:
    """Every pass, with what makes threads work together."""
    x, weight, dy = random(conv)
    on_load, gate = vectors(conv.c, 1, 2), vectors(conv.c, 4, 5, 6)
    none = (None, None, None, False)
    return {
        "fprop": lambda: raw._conv_fprop(x, weight, *on_load, *none, *conv.geometry, True),
        "dgrad": lambda: raw._conv_dgrad(dy, weight, list(x.shape), x, x, *gate, *conv.geometry),
        "wgrad": lambda: raw._conv_wgrad(dy, x, list(weight.shape), *on_load, *conv.geometry),
    }


def as_list(result: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


SPLIT = Conv(2, 20, 24, 23, 72)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    run = runs(SPLIT)[name]
    with emulated(allow_tf32=True, capability=AMPERE):
        expected = as_list(run())
    schedules = [("reversed", 1)] + [("random", seed) for seed in range(1, 20)]
    for schedule, seed in schedules:
        with emulated(schedule=schedule, seed=seed, allow_tf32=True, capability=AMPERE):
            for index, (a, b) in enumerate(zip(as_list(run()), expected, strict=True)):
                assert torch.equal(a, b), f"{name}: output {index} differs under {schedule} {seed}"


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    run = runs(problem)[name]
    for schedule, seed in [("round_robin", 1), ("random", 5)]:
        with emulated(
            checked=True, schedule=schedule, seed=seed, allow_tf32=True, capability=AMPERE
        ):
            run()  # a race, a stray access or an uninitialised read raises


@pytest.mark.parametrize("name", PASSES)
def test_tensor_cores_take_float32_in_whole_pieces_where_tf32_is_allowed(name: str) -> None:
    whole, odd = runs(Conv(1, 12, 5, 5, 20))[name], runs(Conv(1, 10, 5, 5, 18))[name]
    assert kernels_of(whole)[0] == f"conv_{name}_sm80_im2col"
    assert kernels_of(odd)[0] == f"conv_{name}_simt_im2col"
    assert kernels_of(whole, allow_tf32=False)[0] == f"conv_{name}_simt_im2col"


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_float32_is_exact_where_tensor_cores_do_not_take_it(allow_tf32: bool) -> None:
    # Not allowed, or allowed and not aligned.
    conv = Conv(2, 12, 9, 8, 20)
    x, weight, _ = random(conv)
    misaligned = torch.empty(x.numel() + 1)[1:].view(2, 9, 8, 12).permute(0, 3, 1, 2).copy_(x)
    given = misaligned if allow_tf32 else x
    with emulated(allow_tf32=False):
        expected = raw._conv_fprop(x, weight, *NOTHING, False, *conv.geometry, False)[0]
    with emulated(allow_tf32=allow_tf32) as emulator:
        y = raw._conv_fprop(given, weight, *NOTHING, False, *conv.geometry, False)[0]
        kernel = emulator.launches()[0]["kernel"]
    assert kernel == "conv_fprop_simt_im2col"
    assert torch.equal(y, expected), "the SIMT kernel gave other bits"
    # By the rule for float32, which TF32 misses by a factor of thousands.
    check_rule(y, conv.forward(x, weight), conv.forward(x.double(), weight.double()), name="y")


# With a depth that hides the epilogue, whose pairs the host compiler stores one by one.
DEEP = {
    "fprop": Conv(1, 512, 8, 8, 64, 1, 1, padding=(0, 0)),
    "dgrad": Conv(1, 64, 8, 8, 512, 1, 1, padding=(0, 0)),
    "wgrad": Conv(2, 64, 16, 16, 128, 1, 1, padding=(0, 0)),
}


@pytest.mark.parametrize("name", PASSES)
def test_bank_conflicts_stay_below_a_tenth(name: str) -> None:
    # The plain library counts cp.async and ldmatrix only, the checked one the loads of single elements, too.
    with emulated(checked=True, count=True, allow_tf32=True, capability=AMPERE) as emulator:
        runs(DEEP[name])[name]()
        launch = emulator.launches()[0]
    assert launch["kernel"] == f"conv_{name}_sm80_gemm"
    counters = launch["counters"]
    assert counters["shared_wavefronts"] <= 1.1 * counters["shared_wavefronts_ideal"], counters
