"""The passes of batch norm in closed form (`ops._closed_form`) as workloads; the expand's input is
normalised on load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import computation, costs
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import Random, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.levels.passes import Prepared, by_mask, in_both_layouts
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
        a = _activation(g).flatten(2)
        return a.sum((0, 2)), (a @ a.mT).sum(0)

    part = costs.gram(layer.conv, dtype)
    return _workload(device, dtype, layer, "bottleneck_gram", ("sums", "gram"), ours, plain, part)


def expand_wgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The output's gradient times the activation, and the gradient's sums over pixels."""

    def ours(g: Given) -> Prepared:
        dz, x, scale, bias = g["dz"], g["x"], g["scale"], g["bias"]
        return lambda: raw._bottleneck_expand_wgrad(dz, None, x, scale, bias, None, 1)

    def plain(g: Given) -> tuple[Tensor, Tensor]:
        dz = g["dz"].flatten(2)
        return (dz @ _activation(g).flatten(2).mT).sum(0), dz.sum((0, 2))

    part, names = costs.expand_wgrad(layer.conv, dtype), ("product", "sums")
    return _workload(device, dtype, layer, "bottleneck_expand_wgrad", names, ours, plain, part)


def expand_dgrad(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The activation's gradient, the output's by one matrix and the activation by another, behind its
    ReLU; and what the batch norm before needs of it."""

    def ours(g: Given) -> Prepared:
        dz, x, norm = g["dz"], g["x"], (g["scale"], g["bias"])
        weight, matrix, constant = g["weight"].flatten(1).contiguous(), g["matrix"], g["constant"]
        mean = g["mean"]
        return lambda: raw._bottleneck_expand_dgrad(
            dz, None, weight, x, *norm, None, matrix, constant, 1, *norm, mean
        )

    def plain(g: Given) -> tuple[Tensor, Tensor]:
        x, dz, weight = g["x"].flatten(2), g["dz"].flatten(2), g["weight"].flatten(1)
        acc = g["scale"].dtype
        scale, bias, constant, mean = (
            g[name].view(-1, 1) for name in ("scale", "bias", "constant", "mean")
        )
        dx = weight.T @ dz + g["matrix"].T @ _activation(g).flatten(2) + constant.to(x.dtype)
        dx = torch.where(x.to(acc) * scale + bias > 0, dx, 0)
        sums = dx.to(acc).sum((0, 2)), (dx.to(acc) * (x.to(acc) - mean)).sum((0, 2))
        return dx.view(g["x"].shape), torch.stack(sums)

    part, names = costs.expand_dgrad(layer.conv, dtype), ("dx", "sums")
    return _workload(device, dtype, layer, "bottleneck_expand_dgrad", names, ours, plain, part)


def expand(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The end of a block in training, by the launch for any convolution: bits of the ReLU, too."""

    def ours(g: Given) -> Prepared:
        x, weight, norm, residual = g["x"], g["weight"], _vectors(g), g["residual"]
        before, geometry = (g["scale"], g["bias"]), ((1, 1), (0, 0), (1, 1), 1)
        return lambda: raw._conv_fprop(
            x, weight, *before, *norm, residual, True, *geometry, False, mask=True
        )

    return _end(device, dtype, layer, "conv_fprop", ours)


def bottleneck_expand(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The same by the bottleneck's launch."""

    def ours(g: Given) -> Prepared:
        x, weight, norm, residual = g["x"], g["weight"], _vectors(g), g["residual"]
        scale, bias, none = g["scale"], g["bias"], (None, None, None, 1)
        return lambda: raw._bottleneck_expand(
            *(x, weight, *norm, residual, *none, True, False),
            x_scale=scale,
            x_bias=bias,
            mask=True,
        )

    return _end(device, dtype, layer, "bottleneck_expand", ours)


def _end(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    ours: Callable[[Given], Prepared],
) -> Workload:
    def plain(g: Given) -> tuple[Tensor, Tensor]:
        scale, bias = (v.to(g["x"].dtype).view(1, -1, 1, 1) for v in _vectors(g))
        y = F.conv2d(_activation(g), g["weight"])
        z = (y * scale + bias + g["residual"]).relu_()
        return z, z

    def read(result: Any) -> Sequence[Tensor]:
        z, _, mask = result
        return by_mask(z, mask)

    part = costs.fprop(layer.conv, dtype, vectors=2, residual=True, on_load=True)
    bits = (layer.conv.N * layer.conv.K * layer.conv.P * layer.conv.Q + 7) // 8
    return _workload(
        *(device, dtype, layer, pass_name, ("z", "z by its bits"), ours, plain),
        (part[0], part[1] + bits),
        read,
    )


def _vectors(g: Given) -> tuple[Tensor, Tensor]:
    return g["out_scale"], g["out_bias"]


def _workload(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    names: Sequence[str],
    ours: Callable[[Given], Prepared],
    plain: Callable[[Given], Sequence[Tensor]],
    part: Part,
    read: Callable[[Any], Sequence[Tensor]] | None = None,
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
            mean=random.vector(conv.C, -0.8, 0.8),
            residual=random.normal((conv.N, conv.K, conv.P, conv.Q)),
            out_scale=random.vector(conv.K, 0.5, 1.5),
            out_bias=random.vector(conv.K, -0.8, 0.8),
        )

    def in_torchs_dtypes(result: Any) -> Sequence[Tensor]:
        """float64 results as torch has them; of partial sums the sum."""
        first, second = result
        if first.dim() == 4:
            return first, second.double().sum(0).to(second.dtype)
        return first.to(dtype), second.to(dtype)

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{conv} on load",
        pass_name=pass_name,
        inputs=inputs,
        plain=lambda g: dict(zip(names, plain(g), strict=True)),
        ways=[
            Way(OURS, ours, Reading(read or in_torchs_dtypes)),
            *in_both_layouts(lambda g: lambda: plain(g)),
        ],
        parts=[part],
        part_of_network=layer,
        facts={"peer": "scale, bias, ReLU, and matrix products over rows", "op": "on load"},
    )


def _activation(g: Given) -> Tensor:
    scale, bias = (g[name].to(g["x"].dtype).view(1, -1, 1, 1) for name in ("scale", "bias"))
    return (g["x"] * scale + bias).relu_()
