"""bottleneck_block, a whole bottleneck at inference, on every backend."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from resnet_cuda import _raw, ops, reference
from resnet_cuda.testing import check_rule, emulated, gradcheck_op


def conv_bn(
    c: int, k: int, size: int, device: str, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    weight = torch.randn(k, c, size, size, dtype=dtype, device=device, requires_grad=True)
    gamma = torch.randn(k, dtype=dtype, device=device, requires_grad=True)
    beta = torch.randn(k, dtype=dtype, device=device, requires_grad=True)
    mean = torch.randn(k, dtype=dtype, device=device)
    var = torch.rand(k, dtype=dtype, device=device) + 0.5
    return [weight, gamma, beta, mean, var]


@pytest.mark.parametrize("affine", [False, True], ids=["without vectors", "with vectors"])
def test_a_whole_block(backend: str, device: str, affine: bool) -> None:
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64, device=device, requires_grad=True)
    given = [conv_bn(*sizes, device) for sizes in ((6, 3, 1), (3, 3, 3), (3, 6, 1))]
    parameters = [t for unit in given for t in unit[: 3 if affine else 1]]

    def op(x: Tensor, *parameters: Tensor, module: object = ops) -> Tensor:
        count = len(parameters) // 3
        units = [
            ops.ConvUnit(
                *(*parameters[i * count :][:count], *(() if affine else (None, None))),
                *(s.clone() for s in unit[3:]),
                padding=(i % 2, i % 2),
            )
            for i, unit in enumerate(given)
        ]
        return module.bottleneck_block(x, *units)  # type: ignore[attr-defined]

    inputs = (x, *parameters)
    torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
    with torch.no_grad():
        torch.testing.assert_close(op(*inputs), op(*inputs, module=reference))
        torch.testing.assert_close(op(x[:0], *parameters), x[:0])
    gradcheck_op(op, inputs, fast=True)


BLOCK = "bottleneck_block_sm90_halo"


def block_units(dtype: torch.dtype = torch.bfloat16, device: str = "cpu") -> list[ops.ConvUnit]:
    """Of as many channels as one kernel takes."""
    units = []
    for i, sizes in enumerate(((256, 64, 1), (64, 64, 3), (64, 256, 1))):
        weight, *vectors = (t.detach() for t in conv_bn(*sizes, device, dtype))
        units.append(ops.ConvUnit(weight, *(v.float() for v in vectors), padding=(i % 2, i % 2)))
    return units


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_whole_block_is_one_launch_at_inference_in_16_bits(dtype: torch.dtype) -> None:
    units, x = block_units(dtype), torch.randn(2, 256, 8, 24).to(dtype)
    with emulated() as emulation:
        y = ops.bottleneck_block(x, *units)
        kernels = [launch["kernel"] for launch in emulation.launches()]
    assert y.is_contiguous(), "it comes in the layout of x"
    if dtype == torch.float32:
        assert BLOCK not in kernels and len(kernels) == 3, "there is no such kernel in float32"
    else:
        assert kernels == [BLOCK]
    exact = reference.bottleneck_block(x.double(), *(widened(unit) for unit in units))
    check_rule(y, reference.bottleneck_block(x, *units), exact, name="y")


def widened(unit: ops.ConvUnit) -> ops.ConvUnit:
    tensors = (unit.weight, *unit.bn())
    return ops.ConvUnit(*(t.double() for t in tensors), padding=unit.padding)  # type: ignore[union-attr]


WRONG = {
    "reduce is a Tensor; accepted: a ConvUnit": ("reduce", None),
    "convolve.training is True; accepted: False": ("convolve", {"training": True}),
    "expand.batch_norm is False; accepted: True": ("expand", {"batch_norm": False}),
    "convolve.dropout is 0.5; accepted: 0.0": ("convolve", {"dropout": 0.5}),
    "convolve.padding is (0, 0); accepted: 1": ("convolve", {"padding": (0, 0)}),
    "reduce.stride is (2, 2); accepted: 1": ("reduce", {"stride": (2, 2)}),
    "expand.dilation is 2; accepted: 1": ("expand", {"dilation": 2}),
    "convolve.groups is 2; accepted: 1": ("convolve", {"groups": 2}),
    "reduce.weight has shape [3, 5, 1, 1]; accepted: [3, 6, 1, 1]": ("reduce", (3, 5, 1)),
    "convolve.weight has shape [3, 3, 1, 1]; accepted: [3, 3, 3, 3]": ("convolve", (3, 3, 1)),
    "expand.weight has shape [7, 3, 1, 1]; accepted: [6, 3, 1, 1]": ("expand", (7, 3, 1)),
    "expand: gamma has shape [5]; accepted: [6]": ("expand", {"gamma": torch.ones(5)}),
    "reduce: weight has dtype torch.float64": ("reduce", torch.float64),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_block_s_wrong_arguments_are_named(backend: str, device: str, message: str) -> None:
    def unit(k: int, c: int, size: int) -> ops.ConvUnit:
        weight = torch.randn(k, c, size, size, device=device)
        vectors = [torch.ones(k, device=device)] * 4
        return ops.ConvUnit(weight, *vectors, padding=(size // 2, size // 2))

    units = {"reduce": unit(3, 6, 1), "convolve": unit(3, 3, 3), "expand": unit(6, 3, 1)}
    name, wrong = WRONG[message]
    if wrong is None:
        units[name] = torch.ones(1)  # type: ignore[assignment]
    elif isinstance(wrong, tuple):
        units[name].weight = unit(*wrong).weight
    elif isinstance(wrong, torch.dtype):
        units[name].weight = units[name].weight.to(wrong)
    else:
        for option, value in wrong.items():
            setattr(units[name], option, value)
    x = torch.randn(2, 6, 4, 5, device=device)
    with torch.no_grad(), pytest.raises((TypeError, ValueError), match=re.escape(message)):
        ops.bottleneck_block(x, *units.values())
