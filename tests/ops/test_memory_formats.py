"""Strides of every kind: the result is the reference's, in the format that torch's convolutions
would choose."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from resnet_cuda import ops, reference

CL, NCHW = torch.channels_last, torch.contiguous_format

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=CL),
    "nchw": lambda x: x.contiguous(),
    "sliced pixels": lambda x: torch.cat([x, x], 3)[:, :, :, : x.shape[3]],
    "every other pixel": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "sliced channels": lambda x: torch.cat([x, x], 1).contiguous(memory_format=CL)[:, : x.shape[1]],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "expanded batch": lambda x: x[:1].expand(x.shape),
    "expanded channels": lambda x: x[:, :1].expand(x.shape),
    "overlapping windows": lambda x: x.flatten().as_strided(x.shape, (7, 5, 3, 1)),
    "offset storage": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


def tensors(device: str) -> tuple[Tensor, Tensor, list[Tensor]]:
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64, device=device)
    weight = torch.randn(4, 4, 3, 3, dtype=torch.float64, device=device)
    vectors = [torch.rand(4, dtype=torch.float64, device=device) + 0.5 for _ in range(4)]
    return x, weight, vectors


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_of_x_and_residual(backend: str, device: str, view: str, training: bool) -> None:
    base, weight, vectors = tensors(device)
    results = []
    for module in (ops, reference):
        leaf = base.clone().requires_grad_()
        x, residual = VIEWS[view](leaf), VIEWS[view](leaf * 2)
        given = [vector.clone() for vector in vectors]
        z = module.conv_bn_relu(x, weight, *given, residual=residual, padding=1, training=training)
        z.sum().backward()
        results.append((z, leaf.grad))
        with torch.no_grad():
            inference = module.conv_bn_relu(x, weight, *given, residual=residual, padding=1)
        results[-1] += (inference,)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("view", VIEWS)
def test_views_in_the_other_ops(backend: str, device: str, view: str) -> None:
    base, _, vectors = tensors(device)
    x = VIEWS[view](base)
    torch.testing.assert_close(ops.add_relu(x, x * 2), reference.add_relu(x, x * 2))
    torch.testing.assert_close(ops.bn_relu(x, *vectors), reference.bn_relu(x, *vectors))
    torch.testing.assert_close(ops.max_pool2d(x), reference.max_pool2d(x))
    torch.testing.assert_close(ops.global_avg_pool(x), reference.global_avg_pool(x))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("weight_format", [NCHW, CL], ids=["w nchw", "w nhwc"])
@pytest.mark.parametrize("x_format", [NCHW, CL], ids=["x nchw", "x nhwc"])
def test_the_outputs_format_is_torchs(
    backend: str,
    device: str,
    x_format: torch.memory_format,
    weight_format: torch.memory_format,
    grad: bool,
) -> None:
    x, weight, vectors = tensors(device)
    x, weight = x.contiguous(memory_format=x_format), weight.contiguous(memory_format=weight_format)
    weight.requires_grad_(grad)
    z = ops.conv_bn_relu(x, weight, *vectors, padding=1)
    expected = CL if CL in (x_format, weight_format) else NCHW
    assert z.is_contiguous(memory_format=expected), f"strides {z.stride()}"


def test_strided_parameters_and_statistics(backend: str, device: str) -> None:
    x, weight, vectors = tensors(device)
    strided = [torch.stack([vector, vector], 1)[:, 0] for vector in vectors]
    assert not strided[0].is_contiguous()
    z = ops.conv_bn_relu(x, weight.transpose(2, 3), *strided, training=True)
    expected = reference.conv_bn_relu(x, weight.transpose(2, 3), *vectors, training=True)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(strided[2], vectors[2])
    torch.testing.assert_close(strided[3], vectors[3])


def test_expanded_statistics_cannot_be_updated_silently(backend: str, device: str) -> None:
    x, weight, vectors = tensors(device)
    vectors[2] = torch.zeros(1, dtype=torch.float64, device=device).expand(4)
    with pytest.raises(RuntimeError, match="single memory location"):
        ops.conv_bn_relu(x, weight, *vectors, training=True)


@pytest.mark.parametrize("view", ["channels_last", "nchw", "expanded batch", "transposed"])
def test_gradients_of_any_strides_are_accepted(backend: str, device: str, view: str) -> None:
    grads = []
    for module in (ops, reference):
        torch.manual_seed(1)
        x, weight, vectors = tensors(device)
        x.requires_grad_()
        z = module.conv_bn_relu(x, weight, *vectors, padding=1, training=True)
        z.backward(VIEWS[view](torch.randn_like(z)))
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("module", [ops, reference], ids=["ops", "reference"])
def test_strided_vectors_give_what_contiguous_ones_give(
    backend: str, device: str, module: ModuleType, training: bool
) -> None:
    base, _, vectors = tensors(device)
    strided = [torch.stack([vector, vector + 1], 1)[:, 0] for vector in vectors]
    results = []
    for given in (vectors, strided):
        x = base.contiguous(memory_format=CL).requires_grad_()
        z = module.bn_relu(x, *given, training=training)
        (dx,) = torch.autograd.grad(z, x, torch.cos(z).detach())
        results.append((z, dx, given[2].clone(), given[3].clone()))
    for of_contiguous, of_strided in zip(*results, strict=True):
        torch.testing.assert_close(of_strided, of_contiguous, rtol=1e-9, atol=1e-9)
