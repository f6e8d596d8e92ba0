"""Add + ReLU, the two bottleneck convolutions and the pools against torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from passes import Conv, nhwc, pack_mask, per_channel, tile_statistics, vector

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def normal(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return nhwc(torch.randn(*size, generator=g, dtype=torch.float64).to(dtype))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 4, 4), (1, 3, 5, 7), (1, 1, 1, 1)], ids=str)
def test_add_relu_is_bitwise_torchs(shape: tuple, dtype: torch.dtype, device: str) -> None:
    x, residual = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=1)
    dz = normal(*shape, dtype=dtype, seed=2)
    z, mask = raw._add_relu_forward(x.to(device), residual.to(device), True)
    expected = torch.relu(x + residual)
    assert torch.equal(z.cpu(), expected)
    assert torch.equal(mask.cpu(), pack_mask(expected > 0))
    dx = raw._add_relu_backward(dz.to(device), mask)
    assert torch.equal(dx.cpu(), torch.where(expected > 0, dz, torch.zeros_like(dz)))


def test_add_relu_handles_pointers_that_vectors_cannot(device: str) -> None:
    storage = normal(1, 1, 1, 65, dtype=torch.float32).flatten().to(device)
    x = storage[1:].view(1, 4, 4, 4).to(memory_format=torch.channels_last)
    shifted = torch.empty(65, device=device)[1:].view(1, 4, 4, 4)
    shifted = shifted.as_strided((1, 4, 4, 4), (64, 1, 16, 4))
    shifted.copy_(x)
    assert shifted.data_ptr() % 16 != 0
    z, _ = raw._add_relu_forward(shifted, x, False)
    assert torch.equal(z, torch.relu(x + x))


def test_add_relu_passes_nan_forward_and_backward(device: str) -> None:
    x = nhwc(torch.tensor([float("nan"), -1.0, float("inf"), 1.0]).view(1, 4, 1, 1))
    z, mask = raw._add_relu_forward(x.to(device), torch.zeros_like(x).to(device), True)
    assert z.flatten().isnan().tolist() == [True, False, False, False]
    dx = raw._add_relu_backward(torch.ones_like(x).to(device), mask)
    assert dx.flatten().tolist() == [1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("relu", [False, True])
def test_bottleneck_reduce_is_the_fused_1x1(stride: int, relu: bool, device: str) -> None:
    conv = Conv(2, 37, 7, 6, 11, 1, 1, stride=(stride, stride), padding=(0, 0))
    x, weight, _ = conv.random(torch.float64)
    scale, bias = vector(11, x.dtype, 1), vector(11, x.dtype, 2)
    to = [t.to(device) for t in (x, weight, scale, bias)]
    z, _ = raw._bottleneck_reduce(*to, stride, relu, False)
    expected = conv.forward(x, weight) * per_channel(scale) + per_channel(bias)
    close(z, torch.relu(expected) if relu else expected)
    y, partials = raw._bottleneck_reduce(*to[:2], None, None, stride, False, True)
    close(y, conv.forward(x, weight))
    close(partials, tile_statistics(y.cpu()))


@pytest.mark.parametrize("relu", [False, True])
def test_bottleneck_expand_adds_the_identity_shortcut(relu: bool, device: str) -> None:
    conv = Conv(2, 9, 5, 7, 36, 1, 1, padding=(0, 0))
    x, weight, residual = conv.random(torch.float64)
    scale, bias = vector(36, x.dtype, 1), vector(36, x.dtype, 2)
    to = [t.to(device) for t in (x, weight, scale, bias, residual)]
    z, *_ = raw._bottleneck_expand(*to, None, None, None, 1, relu, False)
    expected = conv.forward(x, weight) * per_channel(scale) + per_channel(bias) + residual
    close(z, torch.relu(expected) if relu else expected)
    y, partials, _ = raw._bottleneck_expand(
        *to[:2], None, None, None, None, None, None, 1, False, True
    )
    close(y, conv.forward(x, weight))
    close(partials, tile_statistics(y.cpu()))


@pytest.mark.parametrize("stride", [1, 2])
def test_bottleneck_expand_projects_the_shortcut_in_the_same_launch(
    stride: int, device: str
) -> None:
    expand = Conv(2, 9, 4, 3, 70, 1, 1, padding=(0, 0))
    project = Conv(2, 20, 4 * stride, 3 * stride, 70, 1, 1, (stride, stride), (0, 0))
    x, weight, _ = expand.random(torch.float64)
    block_input, projection, _ = project.random(torch.float64, seed=1)
    scale, bias, p_scale, p_bias = (vector(70, x.dtype, seed) for seed in range(4))
    to = [t.to(device) for t in (x, weight, scale, bias, block_input, projection, p_scale, p_bias)]
    z, *_ = raw._bottleneck_expand(*to, stride, True, False)
    branch = expand.forward(x, weight) * per_channel(scale) + per_channel(bias)
    shortcut = project.forward(block_input, projection) * per_channel(p_scale) + per_channel(p_bias)
    close(z, torch.relu(branch + shortcut))


POOLS = [
    ((2, 5, 9, 8), 3, 2, 1),
    ((1, 33, 7, 7), 2, 2, 0),
    ((1, 3, 1, 1), 3, 2, 1),
    ((2, 4, 11, 5), 5, 3, 2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding"), POOLS)
def test_max_pool_and_its_backward_are_torchs(
    shape: tuple, kernel: int, stride: int, padding: int, dtype: torch.dtype, device: str
) -> None:
    # Few distinct values: ties must go to the first maximum, as in torch.
    x = nhwc((normal(*shape) * 2).round().to(dtype))
    y, argmax = raw._max_pool_forward(x.to(device), kernel, stride, padding, True)
    leaf = x.double().requires_grad_()
    expected = F.max_pool2d(leaf, kernel, stride, padding)
    assert torch.equal(y.cpu().double(), expected)
    dy = (normal(*expected.shape, seed=1) * 4).round()
    expected.backward(dy)
    dx = raw._max_pool_backward(
        nhwc(dy.to(dtype)).to(device), argmax, list(shape), kernel, stride, padding
    )
    assert torch.equal(dx.cpu().double(), leaf.grad)


def test_max_pool_lets_nan_win_as_torch_does(device: str) -> None:
    x = normal(1, 2, 6, 6, dtype=torch.float32)
    x[0, 0, 2, 3] = float("nan")
    x[0, 1] = -float("inf")
    y, _ = raw._max_pool_forward(x.to(device), 3, 2, 1, False)
    torch.testing.assert_close(y.cpu(), F.max_pool2d(x, 3, 2, 1), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 40, 7, 7), (3, 5, 1, 1), (1, 1, 9, 2)], ids=str)
def test_global_avg_pool_and_its_backward_are_torchs(shape: tuple, device: str) -> None:
    x = normal(*shape)
    y = raw._global_avg_pool_forward(x.to(device))
    close(y, x.mean((2, 3), keepdim=True))
    dy = normal(*y.shape, seed=1)
    dx = raw._global_avg_pool_backward(dy.to(device), list(shape))
    close(dx, (dy / (shape[2] * shape[3])).expand(shape))
