"""torch.compile(fullgraph=True), torch.export and the raw ops' fakes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import _fakes, _raw, ops, reference
from resnet_cuda.testing.problems import ConvProblem, make_inputs

PROBLEM = ConvProblem(2, 4, 6, 6, 6, 3, 3, padding=1)


@pytest.fixture(autouse=True)
def _fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_conv_bn_relu_compiles_into_one_graph(backend: str, device: str, training: bool) -> None:
    def call(
        x: Tensor,
        weight: Tensor,
        gamma: Tensor,
        beta: Tensor,
        residual: Tensor,
        mean: Tensor,
        var: Tensor,
    ):
        return ops.conv_bn_relu(
            x, weight, gamma, beta, mean, var, residual=residual, padding=1, training=training
        )

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    results = []
    for function in (call, compiled):
        inputs = make_inputs(PROBLEM, torch.float32, device=device, requires_grad=True)
        statistics = inputs.running_mean, inputs.running_var
        z = function(*inputs.leaves(), *statistics)
        z.square().sum().backward()
        with torch.no_grad():
            inference = function(*inputs.leaves(), *statistics)
        results.append((z, inference, *statistics, *(leaf.grad for leaf in inputs.leaves())))
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ops.add_relu(x, x * 0.5),
        lambda x: ops.bn_relu(x, None, None, None, None, training=True),
        ops.max_pool2d,
        ops.global_avg_pool,
    ],
    ids=["add_relu", "bn_relu", "max_pool2d", "global_avg_pool"],
)
def test_the_other_ops_compile_into_one_graph(backend: str, device: str, call: Any) -> None:
    x = torch.randn(2, 3, 8, 8, device=device, requires_grad=True)
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    expected, actual = call(x), compiled(x)
    torch.testing.assert_close(actual, expected)
    dz = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(actual, x, dz), torch.autograd.grad(expected, x, dz)
    )


class Unit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, bias=False)
        self.bn = nn.BatchNorm2d(6)
        self.folded = ops.FoldedConv()

    def forward(self, x: Tensor) -> Tensor:
        bn = self.bn
        unit = ops.ConvUnit(
            self.conv.weight,
            bn.weight,
            bn.bias,
            bn.running_mean,
            bn.running_var,
            folded=self.folded,
        )
        return ops.residual_branch(x, [unit], None)


def test_export(backend: str, device: str) -> None:
    module = Unit().to(device).eval()
    x = torch.randn(2, 4, 7, 7, device=device)
    with torch.no_grad():
        exported = torch.export.export(module, (x,)).module()
        torch.testing.assert_close(exported(x), module(x))


def test_backends_do_not_leak_into_compiled_code() -> None:
    from resnet_cuda import use_backend

    inputs = make_inputs(PROBLEM, torch.float32)
    vectors = inputs.gamma, inputs.beta, inputs.running_mean, inputs.running_var
    compiled = torch.compile(
        lambda x: ops.conv_bn_relu(x, inputs.weight, *vectors, padding=1),
        fullgraph=True,
        backend="aot_eager",
    )
    expected = reference.conv_bn_relu(inputs.x, inputs.weight, *vectors, padding=1)
    for name in ("cpu", "reference", "cpu"):
        with use_backend(name):
            torch.testing.assert_close(compiled(inputs.x), expected)


def raw_calls(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Arguments for every raw op, for opcheck."""
    acc = torch.float64 if dtype == torch.float64 else torch.float32

    def activation(*sizes: int) -> Tensor:
        return torch.randn(*sizes).to(dtype).contiguous(memory_format=torch.channels_last)

    x, residual = activation(2, 4, 5, 5), activation(2, 6, 3, 3)
    weight, pointwise, projection = (
        activation(6, 2, 3, 3),
        activation(6, 6, 1, 1),
        activation(6, 4, 1, 1),
    )
    y, dz = activation(2, 6, 3, 3), activation(2, 6, 3, 3)
    scale, bias, mean, invstd = (torch.rand(6, dtype=acc) + 0.5 for _ in range(4))
    geometry = [2, 2], [1, 1], [1, 1], 2
    mask = torch.randint(0, 256, ((2 * 6 * 9 + 7) // 8,), dtype=torch.uint8)
    partials = torch.rand(1, 2, 6, dtype=acc)
    coefficients = torch.rand(4, 6, dtype=acc)
    argmax = torch.full((2, 4, 3, 3), 4, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    x_scale = torch.rand(4, dtype=acc)
    pixels, sampled, behind = (
        activation(2, 8, 5, 5),
        activation(2, 8, 3, 3),
        activation(2, 16, 3, 3),
    )
    vectors = [torch.rand(8, dtype=acc) for _ in range(3)]
    bits = torch.randint(0, 256, (2 * 9 * 2,), dtype=torch.uint8)
    return {
        "_conv_fprop": (x, weight, x_scale, x_scale, scale, bias, residual, True, *geometry, False),
        "_conv_dgrad": (dz, weight, [2, 4, 5, 5], x, x, x_scale, x_scale, x_scale, *geometry),
        "_conv_wgrad": (dz, x, [6, 2, 3, 3], None, None, *geometry),
        "_conv_max_pool": (x, weight, scale, bias, *geometry),
        "_bottleneck_reduce": (x, projection, None, None, 2, False, True),
        "_bottleneck_expand": (
            y,
            pointwise,
            scale,
            bias,
            x,
            projection,
            scale,
            bias,
            2,
            True,
            False,
        ),
        "_bottleneck_expand_reduce": (
            y,
            pointwise,
            scale,
            bias,
            residual,
            activation(4, 6, 1, 1),
            x_scale,
            x_scale,
        ),
        "_bottleneck_block": (
            y,
            *(activation(4, 6, 1, 1), x_scale, x_scale),
            *(activation(4, 4, 3, 3), x_scale, x_scale),
            *(activation(6, 4, 1, 1), scale, bias),
        ),
        "_bottleneck_gram": (pixels, *vectors, 2),
        "_bottleneck_expand_wgrad": (behind, bits, pixels, *vectors, 2),
        "_bottleneck_expand_dgrad": (
            behind,
            bits,
            torch.randn(16, 8).to(dtype),
            sampled,
            *vectors,
            torch.randn(8, 8).to(dtype),
            vectors[0],
            1,
            *vectors,
        ),
        "_bn_statistics": (y,),
        "_bn_finalize": (partials, 18, scale, bias, mean, invstd, 0.1, 1e-5),
        "_bn_apply": (y, scale, bias, residual, True, True),
        "_bn_backward_reduce": (dz, y, mean, mask, None, None),
        "_bn_backward_finalize": (partials, 18, scale, mean, invstd, True),
        "_bn_backward_apply": (dz, y, None, scale, bias, coefficients, True),
        "_add_relu_forward": (y, residual, True),
        "_add_relu_backward": (dz, mask),
        "_max_pool_forward": (x, 3, 2, 1, True),
        "_max_pool_backward": (activation(2, 4, 3, 3), argmax, [2, 4, 5, 5], 3, 2, 1),
        "_global_avg_pool_forward": (x,),
        "_global_avg_pool_backward": (activation(2, 4, 1, 1), [2, 4, 5, 5]),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [fake.__name__ for fake in _fakes.FAKES])
def test_fakes_describe_the_kernels(name: str, dtype: torch.dtype) -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    from resnet_cuda.testing import emulated

    with emulated():
        torch.library.opcheck(
            getattr(torch.ops.resnet_cuda, name).default,
            raw_calls(dtype)[name],
            test_utils=("test_schema", "test_faketensor"),
        )


def test_every_raw_op_has_a_fake() -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    prefix = "resnet_cuda::"
    registered = {
        schema.name.removeprefix(prefix)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith(prefix)
    }
    without_tensors = {"_select_emulator", "_allows_tf32", "_build_info", "_start_early"}
    assert registered - without_tensors == {fake.__name__ for fake in _fakes.FAKES}
