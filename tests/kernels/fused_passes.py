"""The passes of a convolution in each of their fusions, with what each must read and write: for tests of traffic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from passes import Conv, vector
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda


@dataclass(frozen=True)
class FusedPass:
    """`a` and `b` are the matrices that are multiplied, `others` the operands of the fusions."""

    op: str
    fusion: str
    run: Callable[[], object]
    a: Tensor
    b: Tensor
    others: Sequence[Tensor] = ()

    def __str__(self) -> str:
        return f"{self.op} {self.fusion}"

    def outputs(self) -> list[Tensor]:
        result = self.run()
        found = result if isinstance(result, (tuple, list)) else [result]
        return [tensor for tensor in found if tensor.numel()]


FUSIONS = {
    "fprop": ("plain", "statistics", "affine residual relu", "normalise-on-load, statistics"),
    "dgrad": ("plain", "add gate", "add gate reduce"),
    "wgrad": ("plain", "normalise-on-load"),
}
NAMES = [f"{op} {fusion}" for op, fusions in FUSIONS.items() for fusion in fusions]


def fused_pass(name: str, conv: Conv, dtype: torch.dtype) -> FusedPass:
    return next(one for one in fused_passes(conv, dtype) if str(one) == name)


def fused_passes(conv: Conv, dtype: torch.dtype) -> Iterator[FusedPass]:
    x, weight, dy = conv.random(dtype)
    on_load, gate = ([vector(conv.c, dtype, seed) for seed in seeds] for seeds in ((1, 2), (4, 5)))
    mean, affine = vector(conv.c, dtype, 6), [vector(conv.k, dtype, seed) for seed in (1, 2)]
    addend = x.flip(0, 1).contiguous(memory_format=torch.channels_last)
    g, off = conv.geometry, (None, None, None, False)
    sampled = _sampled(x, conv)

    def fprop(fusion: str, run: Callable[[], object], *others: Tensor) -> FusedPass:
        return FusedPass("fprop", fusion, run, sampled, weight, others)

    yield fprop("plain", lambda: raw._conv_fprop(x, weight, None, None, *off, *g, False))
    yield fprop("statistics", lambda: raw._conv_fprop(x, weight, None, None, *off, *g, True))
    yield fprop(
        "affine residual relu",
        lambda: raw._conv_fprop(x, weight, None, None, *affine, dy, True, *g, False),
        *affine,
        dy,
    )
    yield fprop(
        "normalise-on-load, statistics",
        lambda: raw._conv_fprop(x, weight, *on_load, *off, *g, True),
        *on_load,
    )
    for fusion, others in (
        ("plain", (None,) * 5),
        ("add gate", (addend, x, *gate, None)),
        ("add gate reduce", (addend, x, *gate, mean)),
    ):
        run = lambda others=others: raw._conv_dgrad(dy, weight, list(x.shape), *others, *g)  # noqa: E731
        given = [tensor for tensor in others if tensor is not None]
        yield FusedPass("dgrad", fusion, run, dy, weight, given)
    for fusion, vectors in (("plain", (None, None)), ("normalise-on-load", tuple(on_load))):
        run = lambda vectors=vectors: raw._conv_wgrad(dy, x, list(weight.shape), *vectors, *g)  # noqa: E731
        given = [tensor for tensor in vectors if tensor is not None]
        yield FusedPass("wgrad", fusion, run, dy, sampled, given)


def _sampled(x: Tensor, conv: Conv) -> Tensor:
    """What a convolution reads of its input: of a strided 1x1, some pixels only."""
    if (conv.r, conv.s) != (1, 1):
        return x
    return x[:, :, :: conv.stride[0], :: conv.stride[1]]
