"""conv_bn_relu_max_pool2d: the same as conv_bn_relu and max_pool2d on every backend, one launch where kernels fuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, ops, reference, testing
from resnet_cuda.testing import assert_close_to_fp64, gradcheck_op
from resnet_cuda.testing.problems import ConvBnInputs, ConvProblem, make_inputs

STEM = ConvProblem(2, 3, 21, 18, 16, 7, 7, stride=2, padding=3)
PROBLEMS = [
    STEM,
    ConvProblem(2, 4, 6, 5, 6, 3, 3, padding=1, groups=2),
    ConvProblem(1, 16, 5, 5, 8, 1, 1),
    ConvProblem(3, 3, 1, 1, 4, 3, 3, padding=1),
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def arguments(inputs: ConvBnInputs) -> list[Tensor]:
    vectors = [inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var]
    return [inputs.x, inputs.weight, *vectors]


def apart(args: list[Tensor], problem: ConvProblem, window: tuple[int, ...] = (), **options: Any):
    return ops.max_pool2d(ops.conv_bn_relu(*args, **problem.geometry(), **options), *window)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_the_bits_are_those_of_the_two_ops(
    backend: str, device: str, problem: ConvProblem, dtype: torch.dtype, training: bool
) -> None:
    ours, theirs = (arguments(make_inputs(problem, dtype, device=device)) for _ in range(2))
    y = ops.conv_bn_relu_max_pool2d(*ours, **problem.geometry(), training=training)
    assert torch.equal(y, apart(theirs, problem, training=training))
    for a, b in zip(ours[4:], theirs[4:], strict=True):
        assert torch.equal(a, b), "the running statistics differ"


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_inference_keeps_the_tolerance_rule(
    backend: str, device: str, problem: ConvProblem, dtype: torch.dtype
) -> None:
    args = arguments(make_inputs(problem, dtype, device=device))

    def call(module: Any, *given: Tensor) -> Tensor:
        return module.conv_bn_relu_max_pool2d(*given, **problem.geometry())

    assert_close_to_fp64(call(ops, *args), lambda *given: call(reference, *given), args)


@pytest.mark.parametrize("window", [(2, 2, 0), (3, 1, 1), (3, 2, 0), (1, 1, 0)])
def test_other_pools(backend: str, device: str, window: tuple[int, int, int]) -> None:
    args = arguments(make_inputs(STEM, torch.bfloat16, device=device))
    names = ("pool_kernel_size", "pool_stride", "pool_padding")
    options = dict(zip(names, window, strict=True))
    y = ops.conv_bn_relu_max_pool2d(*args, **STEM.geometry(), **options)
    assert torch.equal(y, apart(args, STEM, window))


def test_gradients_and_second_derivatives(backend: str, device: str) -> None:
    problem = ConvProblem(2, 2, 4, 5, 3, 3, 3, padding=1)
    inputs = make_inputs(problem, torch.float64, device=device, requires_grad=True)
    statistics = inputs.running_mean, inputs.running_var
    with torch.no_grad():
        inputs.gamma.uniform_(
            0.5, 1.5
        )  # at 0 all values of a channel are equal, and any of them wins
    gradcheck_op(
        lambda x, w, g, b: ops.conv_bn_relu_max_pool2d(x, w, g, b, *statistics, padding=1),
        arguments(inputs)[:4],
    )


def test_an_empty_batch(backend: str, device: str) -> None:
    args = arguments(make_inputs(STEM, torch.bfloat16, device=device))
    y = ops.conv_bn_relu_max_pool2d(args[0][:0], *args[1:], **STEM.geometry())
    assert y.shape == (0, 16, 6, 5) and y.dtype == torch.bfloat16


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_that_of_the_convolution(
    backend: str, device: str, channels_last: bool
) -> None:
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    args = arguments(make_inputs(STEM, torch.bfloat16, device=device))
    args[:2] = (t.contiguous(memory_format=wanted) for t in args[:2])
    y = ops.conv_bn_relu_max_pool2d(*args, **STEM.geometry())
    assert y.is_contiguous(memory_format=wanted), f"strides {y.stride()}"


def test_autocast_chooses_the_dtype(backend: str, device: str) -> None:
    args = arguments(make_inputs(STEM, torch.float32, device=device))
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16):
        y = ops.conv_bn_relu_max_pool2d(*args, **STEM.geometry())
        assert y.dtype == torch.bfloat16 and torch.equal(y, apart(args, STEM))


def test_it_compiles_and_exports_as_one_graph(backend: str, device: str) -> None:
    class Stem(torch.nn.Module):
        def __init__(self, args: list[Tensor]) -> None:
            super().__init__()
            self.args = args

        def forward(self, x: Tensor) -> Tensor:
            return ops.conv_bn_relu_max_pool2d(x, *self.args, **STEM.geometry())

    x, *rest = arguments(make_inputs(STEM, torch.bfloat16, device=device))
    stem = Stem(rest)
    expected = stem(x)
    compiled = torch.compile(stem, fullgraph=True, backend="aot_eager")
    for traced in (compiled, torch.export.export(stem, (x,)).module()):
        torch.testing.assert_close(traced(x), expected, rtol=2e-2, atol=2e-2)


def test_bad_arguments_are_those_of_the_two_ops(backend: str, device: str) -> None:
    args = arguments(make_inputs(STEM, torch.bfloat16, device=device))
    with pytest.raises(ValueError, match="padding is 2"):
        ops.conv_bn_relu_max_pool2d(*args, pool_padding=2)
    with pytest.raises(TypeError, match="x has dtype"):
        ops.conv_bn_relu_max_pool2d(args[0].int(), *args[1:])
    with pytest.raises(ValueError, match="weight"):
        ops.conv_bn_relu_max_pool2d(args[0], args[1][:, :2], *args[2:])


# ---------------------------------------------------------------- what is launched


def kernels_of(problem: ConvProblem, dtype: torch.dtype, **options: Any) -> list[str]:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    grad = options.pop("requires_grad", False)
    args = arguments(make_inputs(problem, dtype, requires_grad=grad))
    with testing.emulated() as emulator:
        ops.conv_bn_relu_max_pool2d(*args, **problem.geometry(), **options)
        return [launch["kernel"] for launch in emulator.launches()]


def test_one_launch_at_inference_in_16_bits() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        assert kernels_of(STEM, dtype) == ["conv_max_pool_sm80_few_channels"]


def test_everything_else_is_two_ops() -> None:
    for launched in (
        kernels_of(STEM, torch.float32),
        kernels_of(STEM, torch.bfloat16, training=True),
        kernels_of(STEM, torch.bfloat16, requires_grad=True),
        kernels_of(STEM, torch.bfloat16, pool_stride=1),
        kernels_of(PROBLEMS[2], torch.bfloat16),
    ):
        assert launched[0].startswith("conv_fprop") and launched[-1] == "max_pool_forward", launched
