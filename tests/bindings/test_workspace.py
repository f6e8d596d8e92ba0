"""wgrad where memory is short: fewer parts of the sum, and a clear error where there is none even for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)
from resnet_cuda import _host
from resnet_cuda.testing import check_gradient_rule, emulated
from tests.faults import allocations

X, WEIGHT = (4, 16, 32, 32), (24, 16, 3, 3)
PART = 24 * 16 * 3 * 3  # accumulators of one part of the sum


@contextmanager
def memory_for(elements: int) -> Iterator[list[int]]:
    """torch.empty on the CPU refuses float32 tensors of more elements; yields what was asked for."""
    asked: list[int] = []

    def refuse(size: int, dtype: torch.dtype | None) -> None:
        if dtype == torch.float32:
            asked.append(size)
            if size > elements:
                raise torch.OutOfMemoryError(f"no memory for {size} elements")

    with allocations(refuse):
        yield asked


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(4, c, 32, 32, generator=g, dtype=torch.bfloat16) for c in (16, 24))
    to = {"memory_format": torch.channels_last}
    return x.contiguous(**to), dy.contiguous(**to)


def wgrad(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    return torch.ops.resnet_cuda._conv_wgrad(dy, x, list(WEIGHT), None, None, *geometry)


def exact(x: torch.Tensor, dy: torch.Tensor) -> torch.Tensor:
    return torch.nn.grad.conv2d_weight(x.double(), WEIGHT, dy.double(), padding=1)


def test_fewer_parts_are_summed_where_memory_is_short() -> None:
    planned = _host.conv_plan("wgrad", "bfloat16", X, WEIGHT, padding=(1, 1))["splits"]
    assert planned == 8
    x, dy = inputs()
    with emulated(), memory_for(3 * PART) as asked:
        dweight = wgrad(x, dy)
    assert [size for size in asked if size % PART == 0] == [8 * PART, 4 * PART, 2 * PART]
    truth = exact(x, dy)
    check_gradient_rule(dweight, truth.to(dweight.dtype), truth, name="dweight")


def test_no_memory_for_one_part_is_a_clear_error() -> None:
    x, dy = inputs()
    with emulated(), memory_for(PART - 1) as asked:
        with pytest.raises(RuntimeError) as error:
            wgrad(x, dy)
    assert asked[-1] == PART
    message = str(error.value)
    assert "_conv_wgrad: there is no memory for its workspace" in message
    assert f"not even for one part of {PART} accumulators" in message


def test_no_memory_for_a_result_is_an_error_with_torch_s_reason() -> None:
    """No line of a C++ header: what could not be allocated, and what the allocator said."""
    x = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    with emulated(), memory_for(100), pytest.raises(RuntimeError) as error:
        torch.ops.resnet_cuda._add_relu_forward(x, x, True)
    message = str(error.value)
    assert "_add_relu_forward: cannot allocate a float32 tensor of shape [2, 8, 4, 4]: " in message
    assert ".h" not in message
    if torch.__version__ >= "2.13":  # older ones keep the reason for themselves
        assert "no memory for 256 elements" in message
