"""Batch norm behind a pointwise convolution in closed form: the Gram matrix of its input, and its gradients."""

from __future__ import annotations

import pytest
import torch
from closed_form import NAMES, Case, Expand
from pass_checks import (
    AMPERE,
    GENERATIONS,
    check_every_schedule_gives_equal_bits,
    check_no_fault,
    kernels_of,
    launches,
)
from passes import nhwc, per_channel, rows, tile_sums
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_rule, emulated

raw = torch.ops.resnet_cuda
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# One tile and less, a second tile that is cut off, many tiles off the diagonal, a stride, several parts, one pixel.
PROBLEMS = [
    Expand(2, 64, 9, 7, 136),
    Expand(2, 72, 10, 9, 40, stride=2),
    Expand(1, 200, 8, 8, 264),
    Expand(1, 16, 13, 11, 8, stride=3),
    Expand(3, 24, 40, 37, 72),
    Expand(1, 8, 1, 1, 8),
]
MAX_DEPTH = 4096  # rows over which fp32 may add


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


@pytest.fixture(params=PROBLEMS, ids=str)
def problem(request: pytest.FixtureRequest) -> Expand:
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


def check(case: Case, name: str, results: tuple[Tensor, Tensor], *, tf32: bool = False) -> None:
    """By the 2x rule; sums in fp64 also by what additions in fp32 may lose."""
    exact, torchs = case.exact(name), case.torchs(name, tf32)
    for index, result in enumerate(results[:1] if name == "expand_dgrad" else results):
        actual = result.cpu()
        if case.dtype == torch.float64:
            torch.testing.assert_close(actual, exact[index], rtol=1e-11, atol=1e-11)
            continue
        what = f"{name}[{index}]"
        check_rule(actual.to(case.dtype), torchs[index], exact[index], name=what)
        if name != "expand_dgrad" and not tf32:
            check_additions(actual, exact[index], case.magnitudes(name)[index], case, what)
    if name == "expand_dgrad" and case.relu:
        check_partials(case, *(t.cpu() for t in results))


def check_additions(
    actual: Tensor, exact: Tensor, magnitude: Tensor, case: Case, what: str
) -> None:
    """Each of a part's additions loses at most half a unit in the last place of its fp32 sum."""
    additions = min(case.dz.numel() // case.problem.k, MAX_DEPTH)
    lost = (actual - exact).abs() / magnitude.clamp_min(torch.finfo(torch.float64).tiny)
    allowed = additions * torch.finfo(torch.float32).eps / 2
    assert lost.max() <= allowed, (
        f"{what} lost {lost.max():.1e} of its terms, {allowed:.1e} is allowed"
    )


def check_partials(case: Case, dx: Tensor, partials: Tensor) -> None:
    """They are those of what was stored."""
    moment = dx.double() * (case.x.cpu().double() - per_channel(case.mean.cpu().double()))
    sums = tile_sums(dx.double(), moment)
    torch.testing.assert_close(partials.double(), sums, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("floor", [True, False], ids=["shifted", "raw"])
@pytest.mark.parametrize("name", NAMES)
def test_the_passes_obey_the_2x_rule(
    problem: Expand, dtype: torch.dtype, name: str, floor: bool, device: str
) -> None:
    case = Case(problem, dtype, device, floor=floor)
    check(case, name, case.run(name))


@pytest.mark.parametrize("name", NAMES)
def test_tf32_obeys_the_2x_rule(problem: Expand, name: str) -> None:
    case = Case(problem, torch.float32)
    with emulated(allow_tf32=True, count=True) as emulator:
        check(case, name, case.run(name), tf32=True)
        assert emulator.launches()[0]["kernel"] == f"bottleneck_{name}_sm80_gemm"


@pytest.mark.parametrize("name", NAMES[1:])
def test_bits_on_load_give_what_a_gated_gradient_gives(
    problem: Expand, dtype: torch.dtype, name: str, device: str
) -> None:
    case = Case(problem, dtype, device)
    results = case.run(name)
    case.dz, case.mask = raw._add_relu_backward(case.dz, case.mask), None
    for index, (a, b) in enumerate(zip(results, case.run(name), strict=True)):
        assert torch.equal(a, b), f"{name}: output {index} is not that of a stored gradient"


@pytest.mark.parametrize("name", NAMES[1:])
def test_what_a_bit_blocks_is_not_multiplied(dtype: torch.dtype, name: str, device: str) -> None:
    case = Case(PROBLEMS[0], dtype, device)
    expected = case.run(name)
    case.dz[~case.keep.to(device)] = torch.nan
    for a, b in zip(case.run(name), expected, strict=True):
        assert torch.equal(a, b), "a blocked NaN must become 0"


def test_the_gram_matrix_is_symmetric_and_exact_for_whole_numbers(
    dtype: torch.dtype, device: str
) -> None:
    case = Case(PROBLEMS[2], dtype, device, floor=False)
    g = torch.Generator().manual_seed(1)
    whole = torch.randint(-4, 5, case.x.shape, generator=g)
    case.x = nhwc(whole.to(dtype)).to(device)
    sums, gram = case.gram()
    exact_sums, exact_gram = case.exact("gram")
    assert torch.equal(sums.cpu(), exact_sums)
    assert torch.equal(gram.cpu(), exact_gram)


@pytest.mark.parametrize("name", ["gram", "expand_wgrad"])
def test_fp32_adds_at_most_4096_rows(name: str, capability: tuple[int, int]) -> None:
    at = Expand(8, 64, 64, 68, 8)
    case = Case(at, torch.bfloat16)
    launch = launches(lambda: case.run(name), capability=capability)[0]
    assert launch["kernel"] == f"bottleneck_{name}_{GENERATIONS[capability]}_gemm"
    counters = launch["counters"]
    pixels = at.n * at.h * at.w
    rows_of_result = at.c if name == "gram" else at.k
    parts = counters["distinct_store_bytes"] // (4 * rows_of_result * (at.c + 1))
    assert pixels / parts <= MAX_DEPTH, f"{parts} parts for {pixels} rows"


ROWS = Expand(8, 16, 32, 32, 8)


def check_covariance(x: Tensor, vectors: list[Tensor], exact: Tensor, device: str) -> None:
    """The covariance from the Gram matrix of `x`, normalised on load, against that of `exact`."""
    sums, gram = (
        t.cpu() for t in raw._bottleneck_gram(x.to(device), *(v.to(device) for v in vectors), 1)
    )
    pixels = x.numel() // x.shape[1]
    expected = torch.cov(rows(exact).T, correction=0)
    ours = gram / pixels - torch.outer(sums, sums) / pixels**2
    off = (ours - expected).norm() / expected.norm()
    assert off <= 1e-4, (
        f"the covariance is off by {off:.1e}: is the operand shifted before it is rounded?"
    )


def test_the_covariance_of_an_activation_a_thousand_deviations_from_zero(device: str) -> None:
    g = torch.Generator().manual_seed(2)
    x = nhwc(torch.randn(ROWS.n, ROWS.c, ROWS.h, ROWS.w, generator=g).bfloat16())
    beta = torch.full((ROWS.c,), 1000.0)
    activation = torch.relu(x.double() + per_channel(beta.double()))
    check_covariance(x, [torch.ones_like(beta), beta - beta, -beta], activation, device)


def test_the_covariance_of_an_input_a_thousand_deviations_from_zero(device: str) -> None:
    g = torch.Generator().manual_seed(2)
    mean, step = 4096.0, 32.0  # bfloat16's numbers above the mean
    steps = torch.rand(ROWS.n, ROWS.c, ROWS.h, ROWS.w, generator=g) < 0.02
    x = nhwc((mean + step * steps).bfloat16())
    assert x.double().mean() / x.double().std() > 900
    k = torch.full((ROWS.c,), mean)
    check_covariance(x, [k / mean, -k, torch.full_like(k, -torch.inf)], x.double(), device)


def test_without_its_optional_inputs_dgrad_stores_the_whole_gradient(
    dtype: torch.dtype, device: str
) -> None:
    case = Case(PROBLEMS[0], dtype, device, floor=False, gated=False, relu=False)
    dx, partials = case.expand_dgrad()
    check(case, "expand_dgrad", (dx, partials))
    assert partials.numel() == 0, "no batch-norm reduction was asked for"


@pytest.mark.parametrize("tensor_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_results_are_bitwise_equal_under_20_schedules(name: str, tensor_dtype: torch.dtype) -> None:
    case = Case(PROBLEMS[1] if name == "gram" else PROBLEMS[0], tensor_dtype)
    check_every_schedule_gives_equal_bits(lambda: case.run(name), name, capability=AMPERE)


@pytest.mark.parametrize("tensor_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_checked_mode_finds_no_fault(problem: Expand, name: str, tensor_dtype: torch.dtype) -> None:
    case = Case(problem, tensor_dtype)
    check_no_fault(lambda: case.run(name), capability=AMPERE)


@pytest.mark.parametrize("name", NAMES)
def test_16_bits_run_on_tensor_cores_where_they_are_aligned(
    name: str, capability: tuple[int, int]
) -> None:
    def kernel() -> str:
        return kernels_of(lambda: case.run(name), capability=capability)[0]

    case = Case(TRAFFIC[0], torch.bfloat16)
    assert kernel() == f"bottleneck_{name}_{GENERATIONS[capability]}_gemm"
    case.x = misaligned(case.x)
    assert kernel() == f"bottleneck_{name}_simt_gemm"
    with emulated(capability=capability):
        check(case, name, case.run(name))


def misaligned(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    view = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(n, h, w, c).permute(0, 3, 1, 2)
    return view.copy_(x)


def traffic(
    at: Expand, name: str, capability: tuple[int, int], *, checked: bool = False
) -> tuple[Case, dict[str, int]]:
    case = Case(at, torch.bfloat16)
    launch = launches(lambda: case.run(name), checked=checked, capability=capability)[0]
    generation = GENERATIONS[capability if at.c % 64 == 0 else AMPERE]
    assert launch["kernel"] == f"bottleneck_{name}_{generation}_gemm"
    return case, launch["counters"]


def inputs(case: Case, name: str) -> int:
    """Bytes of what a pass reads: sampled pixels only, and each vector once."""
    vectors = 3 * case.on_load[0].nbytes
    x = case.sampled().numel() * case.x.element_size()
    if name == "gram":
        return x + vectors
    gradient = case.dz.nbytes + case.mask.nbytes
    if name == "expand_wgrad":
        return gradient + x + vectors
    gate = 3 * case.mean.nbytes if case.relu else 0
    return (
        gradient + x + vectors + case.weight.nbytes + case.matrix.nbytes + case.bias.nbytes + gate
    )


TRAFFIC = [
    Expand(2, 64, 28, 28, 256),
    Expand(2, 128, 14, 14, 512),
    Expand(2, 256, 14, 14, 512, stride=2),
    Expand(1, 72, 13, 11, 40),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", TRAFFIC, ids=str)
def test_every_operand_is_read_once_and_every_result_written_once(
    at: Expand, name: str, capability: tuple[int, int]
) -> None:
    case, counters = traffic(at, name, capability)
    assert counters["distinct_load_bytes"] == inputs(case, name)
    assert counters["distinct_store_bytes"] == counters["global_store_bytes"]
    if name == "expand_dgrad":
        stored = sum(result.nbytes for result in under_emulation(case, name))
        assert counters["distinct_store_bytes"] == stored


def under_emulation(case: Case, name: str) -> tuple[Tensor, Tensor]:
    with emulated():
        return case.run(name)


@pytest.mark.parametrize("at", TRAFFIC[:2], ids=str)
def test_the_gram_matrix_loads_its_input_once(at: Expand) -> None:
    case, counters = traffic(at, "gram", AMPERE)
    parts = counters["distinct_store_bytes"] // (4 * (at.c * at.c + at.c))
    vectors = parts * 128 * 8 * 3 * 4  # each thread holds three of 8 channels
    assert counters["global_load_bytes"] == case.x.nbytes + vectors, (
        "a tile on the diagonal must copy its one operand once"
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("at", TRAFFIC, ids=str)
def test_bank_conflicts_stay_below_a_tenth(
    at: Expand, name: str, capability: tuple[int, int]
) -> None:
    _, counters = traffic(at, name, capability, checked=True)
    wavefronts, ideal = counters["shared_wavefronts"], counters["shared_wavefronts_ideal"]
    assert wavefronts <= 1.1 * ideal, f"{wavefronts} wavefronts, {ideal} without conflicts"
