"""The passes of batch norm in closed form (`ops._closed_form`) as workloads; the expand's input is
normalised on load."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from resnet_cuda.bench import computation, costs
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import Random, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.levels.passes import Prepared, in_both_layouts
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.ops._kernel_passes import PIECE

raw = torch.ops.resnet_cuda


def serves(layer: Layer) -> bool:
    return layer.conv.C % PIECE == 0 and layer.conv.K % PIECE == 0


def gram(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """Sums over pixels and Gram matrix of an activation."""

    def ours(g: Given) -> Prepared:
        x, scale, bias = g["x"], g["scale"], g["bias"]
        return lambda: raw._bottleneck_gram(x, scale, bias, None, 1)

    def plain(g: Given) -> tuple[Tensor, Tensor]:
        a = _rows(_activation(g))
        return a.sum(0), a.T @ a

    part = costs.gram(layer.conv, dtype)
    return _workload(device, dtype, layer, "bottleneck_gram", ("sums", "gram"), ours, plain, part)


def expand_wgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The output's gradient times the activation, and the gradient's sums over pixels."""

    def ours(g: Given) -> Prepared:
        dz, x, scale, bias = g["dz"], g["x"], g["scale"], g["bias"]
        return lambda: raw._bottleneck_expand_wgrad(dz, None, x, scale, bias, None, 1)

    def plain(g: Given) -> tuple[Tensor, Tensor]:
        dz = _rows(g["dz"])
        return dz.T @ _rows(_activation(g)), dz.sum(0)

    part, names = costs.expand_wgrad(layer.conv, dtype), ("product", "sums")
    return _workload(device, dtype, layer, "bottleneck_expand_wgrad", names, ours, plain, part)


def expand_dgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The activation's gradient: the output's by one matrix and the activation by another."""

    def ours(g: Given) -> Prepared:
        dz, x, scale, bias = g["dz"], g["x"], g["scale"], g["bias"]
        weight, matrix, constant = g["weight"].flatten(1).contiguous(), g["matrix"], g["constant"]
        none = (None, None, None)
        return lambda: raw._bottleneck_expand_dgrad(
            dz, None, weight, x, scale, bias, None, matrix, constant, 1, *none
        )[0]

    def plain(g: Given) -> tuple[Tensor]:
        product = _rows(g["dz"]) @ g["weight"].flatten(1)
        product = product + _rows(_activation(g)) @ g["matrix"] + g["constant"].to(product.dtype)
        n, c, h, w = g["x"].shape
        return (product.view(n, h, w, c).permute(0, 3, 1, 2),)

    part = costs.expand_dgrad(layer.conv, dtype)
    return _workload(device, dtype, layer, "bottleneck_expand_dgrad", ("dx",), ours, plain, part)


def _workload(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    names: Sequence[str],
    ours: Callable[[Given], Prepared],
    plain: Callable[[Given], Sequence[Tensor]],
    part: Part,
) -> Workload:
    conv = layer.conv

    def inputs(random: Random) -> Given:
        return Given(
            x=random.normal((conv.N, conv.C, conv.H, conv.W)),
            dz=random.normal((conv.N, conv.K, conv.P, conv.Q)),
            weight=random.filters(conv),
            matrix=random.normal((conv.C, conv.C, 1, 1), (1 / conv.C) ** 0.5).flatten(1),
            scale=random.vector(conv.C, 0.5, 1.5),
            bias=random.vector(conv.C, -0.8, 0.8),
            constant=random.vector(conv.C, -0.8, 0.8),
        )

    def read(result: object) -> Sequence[Tensor]:
        """Sums in float64 as torch has them."""
        results = result if isinstance(result, tuple) else (result,)
        return [t if len(names) == 1 else t.to(dtype) for t in results]

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{conv} on load",
        pass_name=pass_name,
        inputs=inputs,
        plain=lambda g: dict(zip(names, plain(g), strict=True)),
        ways=[Way(OURS, ours, Reading(read)), *in_both_layouts(lambda g: lambda: plain(g))],
        parts=[part],
        part_of_network=layer,
        facts={"peer": "scale, bias, ReLU, and matrix products over rows", "op": "on load"},
    )


def _rows(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N H W, C]"""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def _activation(g: Given) -> Tensor:
    scale, bias = (g[name].to(g["x"].dtype).view(1, -1, 1, 1) for name in ("scale", "bias"))
    return (g["x"] * scale + bias).relu_()
