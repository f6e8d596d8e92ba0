"""Every pass that Hopper's kernels compute, in each of its fusions: for tests that care about how they run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from closed_form import NAMES, Case, Expand
from fused_passes import fused_passes
from passes import Conv, nhwc, vector
from test_block_fusions import runs as block_runs
from test_bn_backward_on_load import Case as OnLoad
from test_bottleneck_block_kernels import Block
from torch import Tensor

import resnet_cuda._raw  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
DTYPE = torch.bfloat16
POINTWISE = {"r": 1, "s": 1, "padding": (0, 0)}
# Several tiles, the last ones cut off: windows, squares of them, classes of a strided dgrad, pixels.
CONVOLUTIONS = {
    "windows": Conv(2, 64, 14, 13, 128),
    "squares": Conv(5, 64, 16, 8, 64),
    "strided windows": Conv(2, 64, 17, 18, 192, stride=(2, 2)),
    "pixels": Conv(3, 128, 11, 13, 256, **POINTWISE),
}
EXPAND = Expand(2, 128, 13, 11, 320)
Run = Callable[[], "Tensor | tuple[Tensor, ...]"]


def hopper_passes() -> dict[str, Run]:
    """By name; the first one or two kernels of each are Hopper's, an ordered sum of parts may follow."""
    found: dict[str, Run] = {}
    for what, conv in CONVOLUTIONS.items():
        found |= {f"{one}, {what}": one.run for one in fused_passes(conv, DTYPE)}
        more = block_runs(conv, DTYPE)
        found[f"fprop scaled shortcut and mask, {what}"] = more["fprop"]
        found[f"dgrad sampled and gated addend, {what}"] = more["dgrad"]
        on_load = OnLoad(conv, DTYPE, relu=True, training=True)
        found[f"batch norm's backward on load, {what}"] = on_load.on_load
    found["reduce, statistics"], found["expand with projection"] = bottleneck()
    found["expand and the next reduce"] = expand_reduce()
    found["a whole bottleneck"] = bottleneck_block()
    of_pixels = Case(EXPAND, DTYPE)
    found |= {name: lambda name=name: of_pixels.run(name) for name in NAMES}
    return found


def bottleneck() -> tuple[Run, Run]:
    reduce, project = Conv(2, 256, 12, 13, 64, **POINTWISE), Conv(2, 128, 24, 26, 256, **POINTWISE)
    expand = Conv(2, 64, 12, 13, 256, **POINTWISE)
    (x, weight, _), (short, p_weight, _) = reduce.random(DTYPE), project.random(DTYPE, seed=1)
    inner, e_weight, _ = expand.random(DTYPE, seed=2)
    vectors = [vector(256, DTYPE, seed) for seed in range(4)]
    on_load = {
        f"{of}{name}": vector(conv.c, DTYPE, seed)
        for of, conv in (("x_", expand), ("projection_x_", project))
        for seed, name in enumerate(("scale", "bias", "floor"))
    }
    norms = (*vectors[:2], nhwc(short), p_weight, *vectors[2:])
    return (
        lambda: raw._bottleneck_reduce(x, weight, None, None, 1, False, True),
        lambda: raw._bottleneck_expand(
            inner, e_weight, *norms, 2, True, False, mask=True, **on_load
        ),
    )


def expand_reduce() -> Run:
    """Two tiles for each block of a pair, the last one cut off, and more columns than stages."""
    expand, reduce = Conv(3, 128, 13, 11, 384, **POINTWISE), Conv(3, 384, 13, 11, 128, **POINTWISE)
    (x, weight, residual), (_, next_weight, _) = expand.random(DTYPE), reduce.random(DTYPE, seed=1)
    norm, next_norm = ([vector(conv.k, DTYPE, i) for i in (0, 1)] for conv in (expand, reduce))
    return lambda: raw._bottleneck_expand_reduce(
        x, weight, *norm, residual, next_weight, *next_norm
    )


def bottleneck_block() -> Run:
    """Parts of a strip for each warpgroup, of several boxes, the last strip cut off."""
    block = Block(2, 16, 24)
    arguments = block.arguments(DTYPE)
    return lambda: raw._bottleneck_block(*arguments)
