"""The fakes say of CUDA tensors, on a machine without a GPU, what the kernels return: device, dtype, shape, strides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from resnet_cuda.testing import emulated
from tests.citizen import cases, fake_gpu, raw_calls

pytestmark = pytest.mark.usefixtures("built")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
FORMATS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}


@pytest.fixture(autouse=True, scope="module")
def _guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    fake_gpu.make_guard(tmp_path_factory.mktemp("cuda_guard"))


def listed(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def described(tensors: Sequence[Tensor | None]) -> list[tuple[Any, ...] | None]:
    return [None if t is None else (t.dtype, tuple(t.shape), t.stride()) for t in tensors]


def assert_on_gpu(tensors: Sequence[Tensor | None]) -> None:
    devices = {t.device.type for t in tensors if t is not None}
    assert devices == {"cuda"}, f"results of CUDA tensors are on {devices}"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", raw_calls.NAMES)
def test_raw_ops_on_a_gpu_that_is_not_there(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.resnet_cuda, name).default
    for call in raw_calls.calls(name, dtype):
        with emulated():
            real = listed(op(*call.args, **call.options))
        with FakeTensorMode() as mode:
            args, options = call.mapped(lambda t, mode=mode: mode.from_tensor(t).to("cuda"))
            fake = listed(op(*args, **options))
        assert_on_gpu(fake)
        assert described(fake) == described(real), f"the fake of {name} and its kernel disagree"


def trained(module: nn.Module, x: Tensor, gradients: Any) -> list[Tensor | None]:
    """The result and the gradients of x and of all parameters."""
    x.requires_grad_()
    z = module(x)
    return [z, *gradients(z, [x, *module.parameters()])]


def with_torch(z: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(z, leaves, torch.ones_like(z), allow_unused=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", [n for n in cases.CASES if n not in cases.UNDIFFERENTIATED])
def test_training_on_a_gpu_that_is_not_there(name: str, layout: str, dtype: torch.dtype) -> None:
    def make() -> tuple[nn.Module, Tensor]:
        with default_dtype(dtype):
            x = cases.images(name, dtype=dtype, memory_format=FORMATS[layout])
            return cases.CASES[name]().train(), x

    with emulated():
        real = trained(*make(), with_torch)
    with FakeTensorMode(), torch.device("cuda"):
        fake = trained(*make(), fake_gpu.gradients)
    assert_on_gpu(fake)
    assert described(fake) == described(real), f"{name} without values and with them disagree"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("name", cases.CASES)
def test_inference_on_a_gpu_that_is_not_there(name: str, layout: str, dtype: torch.dtype) -> None:
    def infer() -> list[Tensor]:
        with default_dtype(dtype), torch.no_grad():
            x = cases.images(name, dtype=dtype, memory_format=FORMATS[layout])
            return listed(cases.CASES[name]().eval()(x))

    with emulated():
        real = infer()
    with FakeTensorMode(), torch.device("cuda"):
        fake = infer()
    assert_on_gpu(fake)
    assert described(fake) == described(real), f"{name} without values and with them disagree"
