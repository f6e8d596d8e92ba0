"""The kernels' convolution passes as workloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import computation, costs, eager, folded
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import (
    Random,
    Way,
    affine,
    convolution_inputs,
    for_statistics,
)
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer, Stem
from resnet_cuda.bench.levels.passes import Prepared, in_both_layouts, statistics_of
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.testing.problems import ConvProblem

raw = torch.ops.resnet_cuda
_aten = torch.ops.aten
_ON_LOAD = " on load"
_VECTORS = {False: (), True: ("scale", "bias")}


def inference(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """relu?(conv(x) scale + bias + residual) in one launch."""

    def ours(g: Given) -> Prepared:
        scale, bias = affine(g)
        x, weight, residual, geometry = (
            g["x"],
            g["weight"],
            g.get("residual"),
            _geometry(layer.conv),
        )
        return lambda: raw._conv_fprop(
            x, weight, None, None, scale, bias, residual, layer.relu, *geometry, False
        )[0]

    part = costs.fprop(layer.conv, dtype, vectors=2, residual=layer.residual)
    return _with_epilogue(device, dtype, layer, "conv_fprop", ours, part)


def reduce(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The same as `inference` by the bottleneck's launch for 1x1 convolutions."""

    def ours(g: Given) -> Prepared:
        scale, bias = affine(g)
        x, weight, stride = g["x"], g["weight"], layer.conv.stride
        return lambda: raw._bottleneck_reduce(x, weight, scale, bias, stride, layer.relu, False)[0]

    part = costs.fprop(layer.conv, dtype, vectors=2)
    return _with_epilogue(device, dtype, layer, "bottleneck_reduce", ours, part)


def max_pool(device: Device, dtype: torch.dtype, stem: Stem) -> Workload:
    """A stem with its max-pool in one launch."""
    layer, pool = stem.layer, stem.pool
    window = (pool.kernel, pool.stride, pool.padding)

    def ours(g: Given) -> Prepared:
        vectors, geometry = affine(g), _geometry(layer.conv)
        x, weight = g["x"], g["weight"]
        return lambda: raw._conv_max_pool(x, weight, *vectors, *geometry)

    def plain(g: Given) -> Tensor:
        return F.max_pool2d(eager.layer(g, layer), *window)

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{stem} affine relu",
        pass_name="conv_max_pool",
        inputs=lambda random: convolution_inputs(layer, random),
        plain=lambda g: {"z": plain(g)},
        ways=[Way(OURS, ours), *in_both_layouts(lambda g: lambda: plain(g))],
        parts=[costs.stem(stem, dtype)],
        part_of_network=stem,
        facts={
            "op": "affine max-pool",
            "peer": "convolution, batch norm with running statistics, ReLU in place, max_pool2d",
        },
    )


def expand(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The bottleneck's end: the shortcut is the block's input, or its projection in the same launch."""

    def ours(g: Given) -> Prepared:
        x, weight, residual = g["x"], g["weight"], g["residual"]
        projection: tuple[Any, ...] = (None, None, None, 1)
        if layer.projection:
            projection = (
                g["projection_weight"],
                *affine(g, "projection_"),
                layer.projection.stride,
            )
        vectors = affine(g)
        return lambda: raw._bottleneck_expand(
            x, weight, *vectors, residual, *projection, layer.relu, False
        )[0]

    (part,) = costs.inference(layer, dtype)
    return _with_epilogue(device, dtype, layer, "bottleneck_expand", ours, part)


def expand_reduce(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The bottleneck's end and the next one's beginning, which narrows to the channels that were widened."""
    n, k, p, q = layer.output
    following = Layer(ConvProblem(n, k, p, q, layer.conv.C, 1, 1), batch_norm=True, relu=True)

    def inputs(random: Random) -> Given:
        conv = following.conv
        given = convolution_inputs(layer, random)
        given.update(next_weight=random.filters(conv), **random.batch_norm(conv.K, "next_"))
        return given

    def ours(g: Given) -> Prepared:
        x, weight, residual, next_weight = g["x"], g["weight"], g["residual"], g["next_weight"]
        vectors, next_vectors = affine(g), affine(g, "next_")
        return lambda: raw._bottleneck_expand_reduce(
            x, weight, *vectors, residual, next_weight, *next_vectors
        )

    def plain(g: Given) -> Mapping[str, Tensor]:
        y = eager.layer(g, layer)
        of_next = {name.removeprefix("next_"): t for name, t in g.items() if "next_" in name}
        return {"y": y, "z": eager.layer({**of_next, "x": y}, following)}

    def read(output: Any) -> Sequence[Tensor]:
        return tuple(output)

    def peer(g: Given) -> Prepared:
        return lambda: tuple(plain(g).values())

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{layer} and k{following.conv.K}-1x1 affine relu",
        pass_name="bottleneck_expand_reduce",
        inputs=inputs,
        plain=plain,
        ways=[Way(OURS, ours, Reading(read)), *in_both_layouts(peer)],
        parts=[costs.expand_reduce(layer.conv, following.conv, dtype)],
        part_of_network=layer,
        facts={
            "op": "affine, and the next one",
            "peer": "two convolutions, batch norms with running statistics, add and ReLUs in place",
        },
    )


def _with_epilogue(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    ours: Callable[[Given], Prepared],
    part: Part,
) -> Workload:
    ways = [Way(OURS, ours), *in_both_layouts(lambda g: lambda: eager.layer(g, layer))]
    ways += folded.layer_ways(device, layer)
    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{layer} affine{' relu' if layer.relu else ''}",
        pass_name=pass_name,
        inputs=lambda random: convolution_inputs(layer, random),
        plain=lambda g: {"z": eager.layer(g, layer)},
        ways=ways,
        parts=[part],
        part_of_network=layer,
        facts={
            "op": "affine",
            "peer": "convolution, batch norm with running statistics, add and ReLU in place",
        },
    )


def statistics(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The convolution with the sums that batch norm needs."""
    geometry = _geometry(layer.conv)
    none = (None,) * 5

    def ours(g: Given) -> Prepared:
        x, weight = g["x"], g["weight"]
        return lambda: raw._conv_fprop(x, weight, *none, False, *geometry, True)

    return _with_statistics(device, dtype, layer, "conv_fprop", ours)


def statistics_on_load(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The same, and the input is another convolution's output, normalised on its way in."""
    geometry = _geometry(layer.conv)
    none = (None,) * 3

    def ours(g: Given) -> Prepared:
        x, weight, scale, bias = g["x"], g["weight"], g["scale"], g["bias"]
        return lambda: raw._conv_fprop(x, weight, scale, bias, *none, False, *geometry, True)

    return _with_statistics(device, dtype, layer, "conv_fprop", ours, on_load=True)


def reduce_statistics(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    stride = layer.conv.stride

    def ours(g: Given) -> Prepared:
        x, weight = g["x"], g["weight"]
        return lambda: raw._bottleneck_reduce(x, weight, None, None, stride, False, True)

    return _with_statistics(device, dtype, layer, "bottleneck_reduce", ours)


def expand_statistics(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    none = (None,) * 6

    def ours(g: Given) -> Prepared:
        x, weight = g["x"], g["weight"]
        return lambda: raw._bottleneck_expand(x, weight, *none, 1, False, True)

    return _with_statistics(device, dtype, layer, "bottleneck_expand", ours)


def _with_statistics(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    ours: Callable[[Given], Prepared],
    on_load: bool = False,
) -> Workload:
    layer = for_statistics(layer)
    pixels = layer.output[0] * layer.output[2] * layer.output[3]

    def read(output: Any) -> Sequence[Tensor]:
        y, partials, *_ = output
        return y, *statistics_of(partials, pixels)

    def plain(g: Given) -> Mapping[str, Tensor]:
        y = eager.convolve(_activation(g), g["weight"], layer.conv)
        mean, invstd = eager.batch_statistics(y)
        return {"y": y, "mean": mean, "invstd": invstd}

    def peer(g: Given) -> Prepared:
        def run() -> object:
            y = eager.convolve(_activation(g), g["weight"], layer.conv)
            return y, *eager.batch_statistics(y)

        return run

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{layer.conv} statistics{_ON_LOAD * on_load}",
        pass_name=pass_name,
        inputs=lambda random: _tensors(layer.conv, random, "x", "weight", *_VECTORS[on_load]),
        plain=plain,
        ways=[Way(OURS, ours, Reading(read)), *in_both_layouts(peer)],
        parts=[costs.fprop(layer.conv, dtype, statistics=True, on_load=on_load)],
        part_of_network=layer,
        facts={
            "op": f"statistics{_ON_LOAD * on_load}",
            "peer": "convolution, then mean and invstd from its output; ours are partial sums",
        },
    )


def dgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The gradient of a convolution's input."""
    conv = layer.conv
    geometry, none = _geometry(conv), (None,) * 5

    def ours(g: Given) -> Prepared:
        dy, weight, size = g["dy"], g["weight"], g["x"].shape
        return lambda: raw._conv_dgrad(dy, weight, size, *none, *geometry)[0]

    return _gradient(device, dtype, layer, "dgrad", ours, costs.dgrad(conv, dtype))


def wgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The gradient of a convolution's weight."""
    conv = layer.conv
    geometry = _geometry(conv)

    def ours(g: Given) -> Prepared:
        dy, x, size = g["dy"], g["x"], g["weight"].shape
        return lambda: raw._conv_wgrad(dy, x, size, None, None, *geometry)

    return _gradient(device, dtype, layer, "wgrad", ours, costs.wgrad(conv, dtype))


def wgrad_on_load(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The same, of a convolution whose input is normalised on its way in."""
    conv = layer.conv
    geometry = _geometry(conv)

    def ours(g: Given) -> Prepared:
        dy, x, size, scale, bias = g["dy"], g["x"], g["weight"].shape, g["scale"], g["bias"]
        return lambda: raw._conv_wgrad(dy, x, size, scale, bias, *geometry)

    part = costs.wgrad(conv, dtype, on_load=True)
    return _gradient(device, dtype, layer, "wgrad", ours, part, on_load=True)


def _gradient(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    which: str,
    ours: Callable[[Given], Prepared],
    part: Part,
    on_load: bool = False,
) -> Workload:
    index, wanted = (0, "dx") if which == "dgrad" else (1, "dweight")
    mask = [index == 0, index == 1, False]
    stride, padding, dilation, groups = _geometry(layer.conv)

    def backward(g: Given) -> Tensor:
        return _aten.convolution_backward.default(
            g["dy"],
            _activation(g),
            g["weight"],
            None,
            stride,
            padding,
            dilation,
            False,
            (0, 0),
            groups,
            mask,
        )[index]

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{layer.conv}{_ON_LOAD * on_load}",
        pass_name=f"conv_{which}",
        inputs=lambda random: _tensors(layer.conv, random, "x", "weight", "dy", *_VECTORS[on_load]),
        plain=lambda g: {wanted: backward(g)},
        ways=[Way(OURS, ours), *in_both_layouts(lambda g: lambda: backward(g))],
        parts=[part],
        part_of_network=layer,
        facts={
            "peer": f"convolution_backward, {wanted} alone",
            **({"op": _ON_LOAD.strip()} if on_load else {}),
        },
    )


def _geometry(conv: ConvProblem) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]:
    s, p, d = conv.stride, conv.padding, conv.dilation
    return (s, s), (p, p), (d, d), conv.groups


def _tensors(conv: ConvProblem, random: Random, *names: str) -> Given:
    given = Given()
    if "x" in names:
        given["x"] = random.normal((conv.N, conv.C, conv.H, conv.W))
    if "weight" in names:
        given["weight"] = random.filters(conv)
    if "dy" in names:
        given["dy"] = random.normal((conv.N, conv.K, conv.P, conv.Q))
    if "scale" in names:
        given["scale"] = random.vector(conv.C, 0.5, 1.5)
        given["bias"] = random.vector(conv.C, -0.8, 0.8)
    return given


def _activation(g: Given) -> Tensor:
    """The convolution's input: x, or x normalised where it has to be."""
    if "scale" not in g:
        return g["x"]
    scale, bias = (g[name].to(g["x"].dtype).view(1, -1, 1, 1) for name in ("scale", "bias"))
    return (g["x"] * scale + bias).relu_()
