"""What the tensor-core kernels move, by the emulator's counters: operands once, whole sectors, no bank conflicts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from fused_passes import NAMES, FusedPass, fused_pass
from pass_checks import GENERATIONS, HOPPER
from passes import Conv
from torch import Tensor

from resnet_cuda import _host
from resnet_cuda.testing import emulated

SECTOR = 32
POINTWISE = {"padding": (0, 0), "r": 1, "s": 1}
PROBLEMS = [
    Conv(2, 64, 14, 14, 64),
    Conv(2, 64, 16, 16, 128, stride=(2, 2)),
    Conv(2, 64, 28, 28, 256, **POINTWISE),
    Conv(2, 256, 14, 14, 64, **POINTWISE),
    Conv(2, 256, 14, 14, 512, stride=(2, 2), **POINTWISE),
    Conv(1, 64, 93, 93, 120, **POINTWISE),  # enough rows for 128 x 128 tiles
]


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.fixture(params=NAMES)
def one(request: pytest.FixtureRequest, conv: Conv) -> FusedPass:
    return fused_pass(request.param, conv, torch.bfloat16)


# Whose operands cost so few wavefronts that those of the staged rows show.


def known(request: pytest.FixtureRequest, reason: str) -> None:
    """What the kernels do not keep yet; once they do, the test fails for being marked."""
    request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


def size_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def counted(
    one: FusedPass, capability: tuple[int, int], checked: bool = False
) -> tuple[list[Tensor], list[dict[str, int]]]:
    """Outputs, and the counters of each launch. Only the checked library counts ordinary accesses of shared memory."""
    with emulated(checked=checked, count=True, capability=capability) as emulator:
        outputs = one.outputs()
        launches = emulator.launches()
    assert f"_{GENERATIONS[capability]}_" in launches[0]["kernel"], launches[0]["kernel"]
    return outputs, [launch["counters"] for launch in launches]


def parts(one: FusedPass, conv: Conv, capability: tuple[int, int]) -> int:
    """Bytes of wgrad's parts, which the kernel writes and the ordered sum reads."""
    return plan(one, conv, capability)["splits"] * conv.k * conv.c * conv.r * conv.s * 4


def plan(one: FusedPass, conv: Conv, capability: tuple[int, int]) -> dict[str, int]:
    return _host.conv_plan(
        one.op,
        "bfloat16",
        (conv.n, conv.c, conv.h, conv.w),
        (conv.k, conv.c, conv.r, conv.s),
        stride=conv.stride,
        padding=conv.padding,
        normalises="normalise-on-load" in one.fusion,
        capability=capability,
    )


def test_every_operand_is_read_once_and_every_result_written_once(
    one: FusedPass, conv: Conv, capability: tuple[int, int]
) -> None:
    outputs, (counters, *sums) = counted(one, capability)
    stored = parts(one, conv, capability) if sums else size_of(outputs)
    assert counters["distinct_load_bytes"] == size_of([one.a, one.b, *one.others])
    assert counters["distinct_store_bytes"] == stored
    assert counters["global_store_bytes"] == stored, "a result is written more than once"
    for addition in sums:
        assert addition["distinct_load_bytes"] == addition["global_load_bytes"] == stored
        assert addition["global_store_bytes"] == size_of(outputs)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("conv", [conv for conv in PROBLEMS if conv.r == 1], ids=str)
def test_1x1_passes_touch_at_most_half_more_sectors_than_their_tiles_need(
    name: str, conv: Conv, capability: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    if capability == HOPPER and name == "wgrad normalise-on-load":
        known(request, "each slice's prologue reads its channels' scale and bias again")
    one = fused_pass(name, conv, torch.bfloat16)
    outputs, (counters, *sums) = counted(one, capability)
    tile = plan(one, conv, capability)["tile"]
    pixels = {"fprop": outputs[0], "dgrad": one.a, "wgrad": one.a}[one.op]
    rows = conv.k if one.op == "wgrad" else pixels.numel() // pixels.shape[1]
    columns = conv.k if one.op == "fprop" else conv.c
    row_tiles, column_tiles = -(-rows // tile[0]), -(-columns // tile[1])
    least = column_tiles * size_of([one.a]) + row_tiles * size_of([one.b]) + size_of(one.others)
    loaded = counters["global_load_sectors"] * SECTOR
    assert loaded <= 1.5 * least, f"sectors of {loaded} bytes are read, the tiles need {least}"
    stored, needed = counters["global_store_sectors"] * SECTOR, size_of(outputs)
    if sums:
        needed = parts(one, conv, capability)
    assert stored <= 1.5 * needed, f"sectors of {stored} bytes are written, {needed} are needed"


def test_bank_conflicts_stay_below_a_tenth(
    one: FusedPass, conv: Conv, capability: tuple[int, int]
) -> None:
    _, (counters, *_) = counted(one, capability, checked=True)
    wavefronts, ideal = counters["shared_wavefronts"], counters["shared_wavefronts_ideal"]
    assert wavefronts <= 1.1 * ideal, f"{wavefronts} wavefronts, {ideal} without conflicts"
