"""Calls of every raw op, each in all the forms that differ in what it returns."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from resnet_cuda import _fakes

NAMES = tuple(fake.__name__ for fake in _fakes.FAKES)


class Call(NamedTuple):
    args: tuple[Any, ...]
    options: dict[str, Any] = {}

    def mapped(self, function: Any) -> Call:
        """With function(t) in place of every tensor t."""

        def of(value: Any) -> Any:
            return function(value) if isinstance(value, Tensor) else value

        return Call(tuple(map(of, self.args)), {k: of(v) for k, v in self.options.items()})


def calls(name: str, dtype: torch.dtype) -> list[Call]:
    """Of the op called `name`, with random arguments in `dtype` on the CPU."""
    return _calls(dtype)[name]


def activation(*sizes: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*sizes).to(dtype).contiguous(memory_format=torch.channels_last)


def _bits(elements: int) -> Tensor:
    return torch.randint(0, 256, ((elements + 7) // 8,), dtype=torch.uint8)


def _calls(dtype: torch.dtype) -> dict[str, list[Call]]:
    acc = torch.float64 if dtype == torch.float64 else torch.float32

    def t(*sizes: int) -> Tensor:
        return activation(*sizes, dtype=dtype)

    def vector(channels: int) -> Tensor:
        return torch.rand(channels, dtype=acc) + 0.5

    x, y, dz, residual = t(2, 4, 5, 5), t(2, 6, 3, 3), t(2, 6, 3, 3), t(2, 6, 3, 3)
    grouped, reduce, expand = t(6, 2, 3, 3), t(6, 4, 1, 1), t(6, 6, 1, 1)
    v4, v6, w6 = vector(4), vector(6), vector(6)
    strided = [2, 2], [1, 1], [1, 1], 2
    pointwise = [1, 1], [0, 0], [1, 1], 1
    mask = _bits(dz.numel())
    partials, coefficients = torch.rand(1, 2, 6, dtype=acc), torch.rand(4, 6, dtype=acc)
    argmax = torch.full((2, 4, 3, 3), 4, dtype=torch.uint8).contiguous(
        memory_format=torch.channels_last
    )
    # In closed form, and where a convolution notes the bits of its ReLU, channels come in eights.
    x8, sampled8, z16 = t(2, 8, 5, 5), t(2, 8, 3, 3), t(2, 16, 3, 3)
    v8 = [vector(8) for _ in range(3)]
    bits16 = _bits(z16.numel())
    matrices = torch.randn(16, 8).to(dtype), torch.randn(8, 8).to(dtype)
    on_load = {"y": y, "coefficients": coefficients, "gate_scale": v6, "gate_bias": w6}

    def expand_dgrad(mask: Tensor | None, *act: Tensor | None) -> Call:
        weight, matrix = matrices
        return Call((z16, mask, weight, sampled8, *v8, matrix, v8[0], 1, *act))

    # Between them, in closed form: of one rank, and of one that knows all ranks' rows.
    filters, d8, d16 = t(16, 8, 1, 1), torch.randn(8).double(), torch.rand(16).double() + 0.5
    gram, product = torch.eye(8).double(), torch.randn(16, 8).double()
    v16, count = [vector(16) for _ in range(4)], torch.tensor(40.0).double()

    def closed_form_backward(others: bool, weight: bool, given: bool) -> Call:
        excess, moments, rows_of_all = (d8, d16, count) if others else (None,) * 3
        sums = product, d16, gram, d8, excess, moments
        return Call((filters, *sums, v8[0], d16, v16[0], d16, d16, 18, rows_of_all, weight, given))

    no_act = (None,) * 4
    bits = {"mask": True}
    return {
        "_conv_fprop": [
            Call((x, grouped, v4, v4, v6, w6, residual, True, *strided, False)),
            Call((x, t(8, 4, 1, 1), *no_act[:2], v8[0], v8[1], x8, True, *pointwise, False), bits),
            Call((x, grouped, None, None, None, None, None, False, *strided, True)),
        ],
        "_conv_dgrad": [
            Call((dz, grouped, [2, 4, 5, 5], x, x, v4, v4, v4, *strided)),
            Call((dz, grouped, [2, 4, 6, 5], None, *no_act, *strided)),
            Call((dz, reduce, [2, 4, 3, 3], None, *no_act, *pointwise), on_load),
        ],
        "_conv_wgrad": [
            Call((dz, x, [6, 2, 3, 3], None, None, *strided)),
            Call((dz, t(2, 4, 3, 3), [6, 4, 1, 1], v4, v4, *pointwise), on_load),
        ],
        "_conv_max_pool": [Call((x, grouped, v6, w6, *strided))],
        "_bottleneck_reduce": [
            Call((x, reduce, None, None, 2, False, True)),
            Call((x, reduce, v6, w6, 1, True, False)),
        ],
        "_bottleneck_expand": [
            Call((y, expand, v6, w6, x, reduce, v6, w6, 2, True, False)),
            Call((x, t(8, 4, 1, 1), v8[0], v8[1], x8, *no_act[:3], 1, True, False), bits),
            Call((y, expand, None, None, None, None, None, None, 1, False, True)),
        ],
        "_bottleneck_expand_reduce": [
            Call((y, expand, v6, w6, residual, t(4, 6, 1, 1), v4, v4)),
        ],
        "_bottleneck_block": [
            Call((y, t(4, 6, 1, 1), v4, v4, t(4, 4, 3, 3), v4, v4, reduce, v6, w6)),
        ],
        "_bottleneck_gram": [Call((x8, *v8, 2)), Call((x8, None, None, None, 1))],
        "_bottleneck_expand_wgrad": [
            Call((z16, bits16, x8, *v8, 2)),
            Call((z16, None, sampled8, None, None, None, 1)),
        ],
        "_bottleneck_expand_dgrad": [expand_dgrad(bits16, *v8), expand_dgrad(None, *no_act[:3])],
        "_closed_form_finalize": [
            Call((filters, d8, gram, v8[0], 18, count, d8, *v16, 0.1, 1e-5)),
            Call((filters, d8, gram, v8[0], 18, None, None, *no_act, 0.0, 1e-5)),
        ],
        "_closed_form_backward_reduce": [
            Call((filters, product, d16, d8, d8, d16)),
            Call((filters, product, d16, d8, None, d16)),
        ],
        "_closed_form_backward_finalize": [
            closed_form_backward(True, True, True),
            closed_form_backward(False, True, False),
            closed_form_backward(False, False, True),
        ],
        "_bn_statistics": [Call((y,))],
        "_bn_finalize": [
            Call((partials, 18, v6, w6, vector(6), vector(6), 0.1, 1e-5)),
            Call((partials, 18, *no_act, 0.0, 1e-5)),
        ],
        "_bn_apply": [
            Call((y, v6, w6, residual, True, True)),
            Call((y, v6, w6, residual, False, False), {"residual_scale": v6}),
        ],
        "_bn_backward_reduce": [
            Call((dz, y, v6, mask, None, None)),
            Call((dz, y, v6, None, v6, w6)),
        ],
        "_bn_backward_finalize": [Call((partials, 18, v6, w6, w6, True))],
        "_bn_backward_apply": [
            Call((dz, y, None, v6, w6, coefficients, True)),
            Call((dz, y, mask, None, None, coefficients, False), {"addend": residual}),
        ],
        "_add_relu_forward": [Call((y, residual, True)), Call((y, residual, False))],
        "_add_relu_backward": [Call((dz, mask))],
        "_max_pool_forward": [Call((x, 3, 2, 1, True)), Call((x, 2, 1, 0, False))],
        "_max_pool_backward": [Call((t(2, 4, 3, 3), argmax, [2, 4, 5, 5], 3, 2, 1))],
        "_global_avg_pool_forward": [Call((x,))],
        "_global_avg_pool_backward": [Call((t(2, 4, 1, 1), [2, 4, 5, 5]))],
    }
