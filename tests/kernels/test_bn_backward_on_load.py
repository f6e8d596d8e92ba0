"""Batch norm's and ReLU's backward on load: dgrad and wgrad take (dz, y) where they would take a stored dy."""

from __future__ import annotations

import pytest
import torch
from pass_checks import GENERATIONS
from passes import Conv, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda.testing import check_gradient_rule, emulated

raw = torch.ops.resnet_cuda
NONE = (None,) * 5
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
# On tensor cores in 16 bits: the GEMM path, taps and padding, classes of pixels with holes between
# them, more than one tile and slice, a part of the reduction each.
PROBLEMS = [
    Conv(2, 64, 9, 9, 136, 1, 1, padding=(0, 0)),
    Conv(1, 72, 93, 93, 16, 1, 1, padding=(0, 0)),  # a stored dy takes larger tiles
    Conv(2, 24, 10, 9, 40),
    Conv(1, 24, 14, 13, 72, 3, 3, stride=(2, 2)),
    Conv(2, 40, 10, 9, 64, padding=(2, 2), dilation=(2, 2)),
    Conv(2, 24, 24, 23, 72),
    Conv(1, 64, 9, 8, 64, stride=(2, 1), groups=8),
    Conv(1, 64, 9, 8, 64, groups=2),
]
# Of which 16-bit kernels gather a stored gradient, but take one on load without tensor cores.
ODD = Conv(2, 20, 9, 7, 35)
CASES = [
    *((conv, dtype) for conv in PROBLEMS for dtype in DTYPES),
    *((ODD, dtype) for dtype in DTYPES[:2]),
]
Run = tuple[Tensor, Tensor]


@pytest.fixture(params=GENERATIONS, ids=GENERATIONS.get)
def capability(request: pytest.FixtureRequest) -> tuple[int, int]:
    return request.param


class Case:
    """A gradient dz behind batch norm (and a ReLU), and both ways to take it through a convolution."""

    def __init__(
        self, conv: Conv, dtype: torch.dtype, *, relu: bool, training: bool, device: str = "cpu"
    ) -> None:
        self.conv = conv
        self.x, self.weight, self.dz = (t.to(device) for t in conv.random(dtype))
        self.y = self.dz.flip(0, 1).contiguous(memory_format=torch.channels_last)
        vectors = [vector(conv.k, dtype, seed).to(device) for seed in range(6)]
        self.gate = {"gate_scale": vectors[0], "gate_bias": vectors[1]} if relu else {}
        if not training:
            vectors[3:] = [torch.zeros_like(v) for v in vectors[3:]]
        self.coefficients = torch.stack(vectors[2:])

    def dgrad(self, dy: Tensor, **on_load: Tensor) -> Tensor:
        size = list(self.x.shape)
        return raw._conv_dgrad(dy, self.weight, size, *NONE, *self.conv.geometry, **on_load)[0]

    def wgrad(self, dy: Tensor, **on_load: Tensor) -> Tensor:
        size = list(self.weight.shape)
        return raw._conv_wgrad(dy, self.x, size, None, None, *self.conv.geometry, **on_load)

    def gradient(self) -> Tensor:
        """The gradient of y."""
        vectors = self.gate.get("gate_scale"), self.gate.get("gate_bias"), self.coefficients
        return raw._bn_backward_apply(self.dz, self.y, None, *vectors, False)[0]

    def stored(self) -> Run:
        dy = self.gradient()
        return self.dgrad(dy), self.wgrad(dy)

    def on_load(self) -> Run:
        beside = {"y": self.y, "coefficients": self.coefficients, **self.gate}
        return self.dgrad(self.dz, **beside), self.wgrad(self.dz, **beside)


def check_equal(actual: Run, expected: Run, what: str) -> None:
    for name, a, b in zip(("dx", "dweight"), actual, expected, strict=True):
        assert torch.equal(a, b), f"{name} {what}: {(a != b).sum()} of {a.numel()} elements differ"


@pytest.mark.parametrize("relu", [False, True], ids=["linear", "relu"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("conv", "dtype"), CASES, ids=str)
def test_the_gradients_have_the_bits_that_a_stored_dy_gives(
    conv: Conv, dtype: torch.dtype, training: bool, relu: bool, device: str
) -> None:
    case = Case(conv, dtype, relu=relu, training=training, device=device)
    check_equal(case.on_load(), case.stored(), "is not that of a stored dy")


@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
def test_odd_channels_in_16_bits_obey_the_2x_rule(dtype: torch.dtype, device: str) -> None:
    case = Case(ODD, dtype, relu=True, training=True, device=device)
    dx, dweight = case.on_load()
    dy, x, weight = (t.cpu().double() for t in (case.gradient(), case.x, case.weight))
    for name, actual, exact in (
        ("dx", dx, ODD.dgrad(dy, weight)),
        ("dweight", dweight, ODD.wgrad(dy, x)),
    ):
        check_gradient_rule(actual.cpu(), exact.to(dtype), exact, name=name)


@pytest.mark.parametrize("conv", PROBLEMS, ids=str)
def test_tf32_gives_the_bits_of_a_stored_dy_too(conv: Conv) -> None:
    case = Case(conv, torch.float32, relu=True, training=True)
    with emulated(allow_tf32=True):
        check_equal(case.on_load(), case.stored(), "is not that of a stored dy")


def test_an_infinite_y_does_not_matter_in_eval_mode(device: str) -> None:
    case = Case(PROBLEMS[1], torch.bfloat16, relu=False, training=False, device=device)
    case.y[0, 3, 4, 5] = torch.inf
    dx, dweight = case.on_load()
    assert torch.isfinite(dx).all() and torch.isfinite(dweight).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_results_are_bitwise_equal_under_20_schedules(dtype: torch.dtype) -> None:
    case = Case(PROBLEMS[4], dtype, relu=True, training=True)
    with emulated():
        expected = case.on_load()
    for schedule, seed in [("reversed", 1)] + [("random", seed) for seed in range(1, 20)]:
        with emulated(schedule=schedule, seed=seed):
            check_equal(case.on_load(), expected, f"differs under schedule {schedule} {seed}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("conv", [*PROBLEMS, ODD], ids=str)
def test_checked_mode_finds_no_fault(conv: Conv, dtype: torch.dtype) -> None:
    case = Case(conv, dtype, relu=True, training=True)
    with emulated(checked=True, schedule="random", seed=5):
        case.on_load()  # a race, a stray access or an uninitialised read raises


def test_each_tensor_is_read_once_and_no_bank_conflicts(capability: tuple[int, int]) -> None:
    case = Case(
        Conv(2, 64, 9, 9, 192, 1, 1, padding=(0, 0)), torch.bfloat16, relu=True, training=True
    )
    with emulated(count=True, capability=capability) as emulator:
        case.on_load()
        launches = emulator.launches()
    for launch in launches[:2]:
        assert f"_{GENERATIONS[capability]}_" in launch["kernel"]
    dgrad, wgrad, _ = (launch["counters"] for launch in launches)
    vectors = sum(v.nbytes for v in (case.coefficients, *case.gate.values()))
    pair = case.dz.nbytes + case.y.nbytes + vectors
    assert dgrad["distinct_load_bytes"] == pair + case.weight.nbytes
    assert wgrad["distinct_load_bytes"] == pair + case.x.nbytes
    for counters in (dgrad, wgrad):
        assert counters["shared_wavefronts"] <= 1.1 * counters["shared_wavefronts_ideal"]


def test_depthwise_convolutions_say_that_they_store_the_gradient() -> None:
    case = Case(Conv(1, 16, 5, 5, 16, groups=16), torch.float32, relu=True, training=True)
    beside = {"y": case.y, "coefficients": case.coefficients}
    with emulated():
        for run in (case.dgrad, case.wgrad):
            with pytest.raises(RuntimeError, match="depthwise"):
                run(case.dz, **beside)


@pytest.mark.parametrize("missing", ["y", "coefficients", "gate_scale", "gate_bias"])
def test_a_half_given_normalisation_is_an_error_that_names_the_argument(missing: str) -> None:
    case = Case(PROBLEMS[1], torch.float32, relu=True, training=True)
    beside = {"y": case.y, "coefficients": case.coefficients, **case.gate}
    del beside[missing]
    with emulated():
        for run in (case.dgrad, case.wgrad):
            with pytest.raises(RuntimeError, match=missing):
                run(case.dz, **beside)
