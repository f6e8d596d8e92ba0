"""Between closed form's passes over pixels: statistics, gradients and matrices from Gram matrix and products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from closed_form_matrices import Case, Filters, Rank
from pass_checks import (
    AMPERE,
    HOPPER,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    launches,
)
from torch import Tensor

from resnet_cuda.testing import emulated

TURING = (7, 5)
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# Tiles that are full, cut off on one side, on both; more than one slice of depth.
SHAPES = [Filters(8, 8), Filters(64, 64), Filters(200, 24), Filters(72, 136)]
RUNS: dict[str, Callable[[Case, Rank | None], tuple[Tensor, ...]]] = {
    "finalize": Case.finalize,
    "backward_reduce": Case.reduce,
    "backward_finalize": Case.backward,
}
FINALIZE = (
    "mean",
    "excess",
    "output_mean",
    "invstd",
    "scale",
    "bias",
    "running mean",
    "running var",
)


@pytest.fixture(params=[TURING, AMPERE, HOPPER], ids="sm{0[0]}{0[1]}".format)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> Filters:
    return request.param


def rounding(dtype: torch.dtype, exact: Tensor) -> Tensor:
    """The distance of the numbers of a dtype, of those below the normal ones, too; of float64 none."""
    info = torch.finfo(dtype)
    if dtype == torch.float64:
        return torch.zeros_like(exact)
    return info.eps * exact.abs().clamp_min(info.smallest_normal)


def check(actual: Tensor, exact: Tensor, name: str, relative: float = 1e-12) -> None:
    """Of float64 sums: off by so much of the result's largest element, or, rounded to its dtype, by one rounding."""
    exact = exact.cpu()
    allowed = relative * exact.abs().max() + rounding(actual.dtype, exact) if len(exact) else exact
    off = (actual.cpu().double() - exact).abs()
    assert actual.shape == exact.shape, f"{name} has shape {list(actual.shape)}"
    assert bool((off <= allowed).all()), f"{name} is off by {off.max():.1e}"


def check_finalize(case: Case, rank: Rank | None) -> None:
    results = zip(FINALIZE, case.finalize(rank), case.exact_finalize(rank), strict=True)
    for name, actual, exact in results:
        check(actual, exact, name)


def check_backward(case: Case, rank: Rank | None) -> None:
    names = ("dgamma", "the filters' sum over the excess")
    for name, actual, exact in zip(names, case.reduce(rank), case.exact_reduce(rank), strict=True):
        check(actual, exact, name)
    dweight, of_gradient, of_operand, constant = case.backward(rank)
    exact_dweight, scaled, matrix = case.exact_backward(rank)
    assert dweight.shape == case.weight.shape and dweight.dtype == case.dtype
    check(dweight.flatten(1), exact_dweight, "dweight")
    assert torch.equal(of_gradient.cpu(), scaled.to(case.dtype)), "of_gradient is s1 W, rounded"
    if case.dtype.itemsize == 2:
        high, low = of_operand.double().split(case.at.c)
        check(high.to(case.dtype), matrix, "the rounded matrix")
        # The second part holds what the first one's rounding lost.
        off = ((high + low).cpu() - matrix).abs()
        allowed = rounding(case.dtype, rounding(case.dtype, matrix)) + 1e-12 * matrix.abs().max()
        assert bool((off <= allowed).all()), f"both parts are off by {off.max():.1e}"
    else:
        check(of_operand, matrix, "of_operand")
    exact_constant, magnitude = case.exact_constant(of_gradient, of_operand)
    allowed = rounding(constant.dtype, exact_constant) + 1e-12 * magnitude
    off = (constant.cpu().double() - exact_constant).abs()
    assert bool((off <= allowed).all()), "the constant must be of the matrices as they were rounded"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "no gamma, no beta"])
def test_statistics_equal_torchs_formula(
    shape: Filters, dtype: torch.dtype, affine: bool, device: str
) -> None:
    check_finalize(Case(shape, dtype, device, affine=affine), None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "no gamma, no beta"])
def test_gradients_and_matrices_equal_torchs_formula(
    shape: Filters, dtype: torch.dtype, affine: bool, device: str
) -> None:
    check_backward(Case(shape, dtype, device, affine=affine), None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_a_rank_of_two_gets_its_own_share(shape: Filters, dtype: torch.dtype, device: str) -> None:
    case = Case(shape, dtype, device)
    for rank in case.ranks:
        check_finalize(case, rank)
        check_backward(case, rank)


def test_the_ranks_gradients_add_up_to_that_of_all_rows(device: str) -> None:
    case = Case(Filters(24, 16), torch.float64, device)
    case.shift.zero_()  # the ranks' sums of y's gradient cancel, what they multiply need not
    parts = [case.backward(rank, input=False)[0] for rank in case.ranks]
    alone = case.backward(input=False)[0]
    torch.testing.assert_close(parts[0] + parts[1], alone, rtol=1e-11, atol=1e-11)


def test_what_is_not_asked_for_is_not_computed(device: str) -> None:
    case = Case(Filters(72, 24), torch.bfloat16, device)
    every = case.backward()
    dweight, *matrices = case.backward(input=False)
    assert torch.equal(dweight, every[0])
    assert all(t.numel() == 0 for t in matrices)
    nothing, *matrices = case.backward(weight=False)
    assert nothing.numel() == 0
    assert all(torch.equal(a, b) for a, b in zip(matrices, every[1:], strict=True))


def test_no_rows_move_no_running_statistics(device: str) -> None:
    case = Case(Filters(8, 8), torch.bfloat16, device)
    nothing = torch.zeros(0, 8, dtype=torch.float64)
    case.alone = Rank(nothing, nothing)
    results = case.finalize()
    for old, new in zip(case.running, results[-2:], strict=True):
        assert torch.equal(new.cpu(), old)
    assert bool(results[3].isfinite().all()), "1 / sqrt(eps) where there is nothing"


def test_nan_reaches_the_statistics(device: str) -> None:
    case = Case(Filters(8, 8), torch.bfloat16, device)
    case.weight[3] = torch.nan
    *_, invstd, scale, bias, _, running_var = case.finalize()
    for result in (invstd, scale, bias, running_var):
        assert result.isnan().nonzero().flatten().tolist() == [3]


def misaligned(t: Tensor) -> Tensor:
    """The same elements at an address that is a multiple of one of them alone."""
    k, c, *_ = t.shape
    view = torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(k, 1, 1, c).permute(0, 3, 1, 2)
    return view.copy_(t)


@pytest.mark.parametrize("name", RUNS)
def test_filters_may_lie_anywhere(name: str, device: str) -> None:
    case = Case(Filters(72, 24), torch.bfloat16, device)
    expected = RUNS[name](case, None)
    case.weight = misaligned(case.weight)
    for a, b in zip(RUNS[name](case, None), expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("gpu", [TURING, AMPERE], ids=["fma", "mma"])
def test_results_are_bitwise_equal_under_20_schedules(name: str, gpu: tuple[int, int]) -> None:
    case = Case(Filters(72, 72), torch.bfloat16)
    rank = case.ranks[0]
    check_every_schedule_gives_equal_bits(lambda: RUNS[name](case, rank), name, capability=gpu)


@pytest.mark.parametrize("name", RUNS)
def test_results_are_bitwise_equal_for_any_number_of_workers(name: str) -> None:
    case = Case(Filters(136, 72), torch.bfloat16)
    results = []
    for workers in (1, 3):
        with emulated(workers=workers):
            results.append(RUNS[name](case, None))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("gpu", [TURING, AMPERE], ids=["fma", "mma"])
def test_checked_mode_finds_no_fault(name: str, dtype: torch.dtype, gpu: tuple[int, int]) -> None:
    case = Case(Filters(72, 24), dtype)
    for rank in (None, case.ranks[0]):
        check_no_fault(lambda rank=rank: RUNS[name](case, rank), capability=gpu)


@pytest.mark.parametrize("name", ["finalize", "backward_finalize"])
def test_shared_memory_has_few_bank_conflicts(name: str) -> None:
    case = Case(Filters(64, 64), torch.bfloat16)
    counted = launches(lambda: RUNS[name](case, None), checked=True, capability=AMPERE)
    for launch in (launch for launch in counted if launch["kernel"].endswith("gemm")):
        counters = launch["counters"]
        assert counters["shared_store_bytes"] > 0, "only a checked run counts plain accesses"
        wavefronts, ideal = counters["shared_wavefronts"], counters["shared_wavefronts_ideal"]
        assert wavefronts <= 1.1 * ideal, (
            f"{launch['kernel']}: {wavefronts}, {ideal} without conflicts"
        )


def test_few_kernels_run_with_tensor_cores_from_ampere_on(capability: tuple[int, int]) -> None:
    case = Case(Filters(64, 64), torch.bfloat16)
    generation = "simt" if capability == TURING else "sm80"
    kernels = {n: kernels_of(lambda n=n: RUNS[n](case, None), capability=capability) for n in RUNS}
    assert kernels == {
        "finalize": [f"closed_form_finalize_{generation}_gemm", "closed_form_finalize_statistics"],
        "backward_reduce": ["closed_form_backward_reduce"],
        "backward_finalize": [
            f"closed_form_backward_finalize_filters_{generation}_gemm",
            f"closed_form_backward_finalize_operand_{generation}_gemm",
            "closed_form_backward_finalize_constant",
        ],
    }
    assert kernels_of(lambda: case.backward(input=False), capability=capability) == [
        f"closed_form_backward_finalize_filters_{generation}_gemm"
    ]


def test_each_product_is_multiplied_once() -> None:
    case = Case(Filters(128, 64), torch.bfloat16)
    counted = {
        launch["kernel"]: launch["counters"]["mma_multiply_adds"]
        for run in (case.finalize, case.backward)
        for launch in launches(run, capability=AMPERE)
    }
    assert counted["closed_form_finalize_sm80_gemm"] == 128 * 64 * 64
    assert counted["closed_form_backward_finalize_filters_sm80_gemm"] == 128 * 64 * 64
    assert counted["closed_form_backward_finalize_operand_sm80_gemm"] == 128 * 64 * 64
    only_input = launches(lambda: case.backward(weight=False), capability=AMPERE)
    assert only_input[0]["counters"]["mma_multiply_adds"] == 0, "nobody wants W's gradient"


def test_the_last_stage_of_a_wide_network() -> None:
    case = Case(Filters(2048, 512), torch.bfloat16)
    with emulated(capability=HOPPER):
        check_finalize(case, None)
        check_backward(case, None)
