"""Tensors on their way into a kernel and out of it: copies, alignment, layout, what was not asked for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import resnet_cuda  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
pytestmark = pytest.mark.usefixtures("emulator")


def random(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size).to(dtype).contiguous(memory_format=torch.channels_last)


def at_offset(x: Tensor, elements: int) -> Tensor:
    """The same values in memory that starts `elements` after an aligned address."""
    n, c, h, w = x.shape
    buffer = torch.empty(x.numel() + elements, dtype=x.dtype)
    view = buffer[elements:].view(n, h, w, c).permute(0, 3, 1, 2)
    return view.copy_(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("elements", [1, 3, 4])
def test_misaligned_views_give_the_same_bits(dtype: torch.dtype, elements: int) -> None:
    x, residual = random(2, 24, 5, 3, dtype=dtype), random(2, 24, 5, 3, dtype=dtype)
    z, mask = raw._add_relu_forward(x, residual, True)
    z_view, mask_view = raw._add_relu_forward(at_offset(x, elements), residual, True)
    assert torch.equal(z, z_view)
    assert torch.equal(mask, mask_view)


def test_inputs_are_left_alone() -> None:
    x, weight = random(2, 5, 6, 4), random(7, 5, 3, 3)
    before = [x.clone(), weight.clone()]
    raw._conv_fprop(x, weight, None, None, None, None, None, True, [1, 1], [1, 1], [1, 1], 1, False)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


def test_running_statistics_are_updated_in_place() -> None:
    y = random(3, 5, 7, 6)
    mean, var = torch.zeros(5), torch.ones(5)
    partials = raw._bn_statistics(y)
    raw._bn_finalize(partials, 126, None, None, mean, var, 0.25, 1e-5)
    torch.testing.assert_close(mean, 0.25 * y.mean((0, 2, 3)))
    torch.testing.assert_close(var, 0.75 + 0.25 * y.var((0, 2, 3)))


def test_what_was_not_asked_for_is_empty() -> None:
    x, weight = random(2, 5, 6, 4, dtype=torch.bfloat16), random(7, 5, 3, 3, dtype=torch.bfloat16)
    geometry = ([1, 1], [1, 1], [1, 1], 1)
    no_epilogue = (None, None, None, None, None, False)
    _, partials, _ = raw._conv_fprop(x, weight, *no_epilogue, *geometry, False)
    assert (partials.shape, partials.dtype) == ((0,), torch.float32)
    _, mask = raw._add_relu_forward(x, x, False)
    assert (mask.shape, mask.dtype) == ((0,), torch.uint8)
    _, argmax = raw._max_pool_forward(x, 3, 2, 1, False)
    assert (argmax.shape, argmax.dtype) == ((0,), torch.uint8)
    coefficients = torch.zeros(
        raw._bn_backward_finalize(
            raw._bn_statistics(x), 48, None, torch.zeros(5), torch.ones(5), True
        )[2].shape
    )
    _, dresidual = raw._bn_backward_apply(x, x, None, None, None, coefficients, False)
    assert (dresidual.shape, dresidual.dtype) == ((0,), torch.bfloat16)


def test_outputs_have_the_promised_shapes_dtypes_and_memory() -> None:
    x, weight = random(2, 5, 9, 8, dtype=torch.float16), random(7, 5, 3, 3, dtype=torch.float16)
    no_epilogue = (None, None, None, None, None, False)
    y, partials, _ = raw._conv_fprop(x, weight, *no_epilogue, [2, 1], [1, 0], [1, 1], 1, True)
    assert (y.shape, y.dtype) == ((2, 7, 5, 6), torch.float16)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert (partials.shape, partials.dtype) == ((1, 2, 7), torch.float32)
    y, argmax = raw._max_pool_forward(x, 3, 2, 1, True)
    assert (argmax.shape, argmax.dtype) == (y.shape, torch.uint8)
    assert argmax.is_contiguous(memory_format=torch.channels_last)
    _, mask = raw._add_relu_forward(x, x, True)
    assert (mask.shape, mask.dtype) == ((90,), torch.uint8)
    assert raw._global_avg_pool_forward(x).shape == (2, 5, 1, 1)


def test_calls_from_several_threads_take_turns() -> None:
    inputs = [random(1, 16, 8, 8) for _ in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda x: raw._add_relu_forward(x, x, False)[0], inputs * 5))
    for x, z in zip(inputs * 5, results, strict=True):
        assert torch.equal(z, torch.relu(x + x))


def test_a_launcher_s_refusal_is_raised_with_its_message() -> None:
    partials = torch.zeros(1, 2, 3)
    with pytest.raises(RuntimeError, match="_bn_finalize: .*more than one value per channel"):
        raw._bn_finalize(partials, 1, None, None, None, None, 0.1, 1e-5)
