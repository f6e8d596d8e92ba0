"""GPUs older than sm_80: SIMT kernels multiply whatever newer GPUs give to their tensor cores."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from every_convolution import *  # noqa: F403  (tests, here of this file's `conv`)
from every_pass import every_pass, outputs
from pass_checks import PASSES, check_every_schedule_gives_equal_bits, check_no_fault, runs
from passes import Conv
from test_bn_backward_on_load import Case, check_equal
from test_tensor_core_kernels import test_the_projection_shares_the_expand_s_tile  # noqa: F401

from resnet_cuda import _host
from resnet_cuda.testing import emulated

TURING = (7, 5)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# What newer GPUs take by each of their paths: windows and pixels in whole pieces, packed groups, larger groups, odd
# channels, a stem, a depthwise convolution.
PROBLEMS = [
    Conv(2, 24, 10, 9, 72, stride=(2, 1)),
    Conv(2, 40, 9, 7, 72, 1, 1, padding=(0, 0)),
    Conv(1, 64, 9, 8, 64, stride=(2, 2), groups=16),
    Conv(1, 48, 9, 8, 48, groups=2),
    Conv(2, 20, 9, 7, 35),
    Conv(1, 3, 20, 18, 16, 7, 7, stride=(2, 2), padding=(3, 3)),
    Conv(2, 24, 9, 8, 24, groups=24),
]


@pytest.fixture
def device() -> Iterator[str]:
    with emulated(capability=TURING, allow_tf32=True):
        yield "cpu"


@pytest.fixture(params=PROBLEMS, ids=str)
def conv(request: pytest.FixtureRequest) -> Conv:
    return request.param


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_pass_takes_tensor_cores(dtype: torch.dtype) -> None:
    with emulated(capability=TURING, allow_tf32=True) as emulation:
        for _, run in every_pass(dtype):
            outputs(run)
        for conv in PROBLEMS:
            for run in runs(conv, dtype).values():
                run()
    launched = {launch["kernel"] for launch in emulation.launches()}
    assert len(launched) > 20, "not every pass ran"
    assert not [kernel for kernel in launched if re.search("sm[89]0", kernel)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", PASSES)
def test_exact_dtypes_have_the_same_bits_on_every_gpu(name: str, dtype: torch.dtype) -> None:
    for conv in PROBLEMS:
        run = runs(conv, dtype)[name]
        with emulated():
            newer = outputs(run)
        with emulated(capability=TURING, allow_tf32=True):
            for a, b in zip(outputs(run), newer, strict=True):
                assert torch.equal(a, b), f"{name} of {conv} depends on the GPU"


@pytest.mark.parametrize("problem", PROBLEMS[:-1], ids=str)  # all but the depthwise one
def test_batch_norm_s_backward_on_load_has_the_bits_of_a_stored_dy(
    problem: Conv, dtype: torch.dtype, device: str
) -> None:
    case = Case(problem, dtype, relu=True, training=True, device=device)
    check_equal(case.on_load(), case.stored(), "is not that of a stored dy")


SPLIT = Conv(2, 64, 24, 23, 64, groups=8)  # two parts of wgrad's reduction


@pytest.mark.parametrize("name", PASSES)
def test_results_are_bitwise_equal_under_20_schedules(name: str) -> None:
    run = runs(SPLIT, torch.bfloat16)[name]
    check_every_schedule_gives_equal_bits(run, name, capability=TURING)


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_checked_mode_finds_no_fault(problem: Conv, name: str) -> None:
    check_no_fault(runs(problem, torch.bfloat16)[name], capability=TURING)


@pytest.mark.parametrize("name", PASSES)
def test_the_plan_says_why(name: str) -> None:
    def plan(capability: tuple[int, int]) -> dict:
        sizes = (2, 64, 9, 8), (64, 64, 3, 3)
        return _host.conv_plan(name, "bfloat16", *sizes, padding=(1, 1), capability=capability)

    assert plan(TURING)["kernel"] == f"conv_{name}_simt_im2col"
    assert "older than compute capability 8.0" in plan(TURING)["why"]
    for newer in ((8, 0), (8, 9), (12, 0)):
        assert plan(newer)["kernel"] == f"conv_{name}_sm80_im2col"
    assert plan((9, 0))["kernel"] == f"conv_{name}_sm90_im2col"


def test_a_gpu_without_compiled_kernels_cannot_be_played() -> None:
    with pytest.raises(ValueError, match=r"capability is \(7, 0\); accepted: \(7, 5\)"):
        with emulated(capability=(7, 0)):
            pass
