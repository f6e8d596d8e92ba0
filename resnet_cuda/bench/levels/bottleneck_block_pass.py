"""A whole bottleneck at inference as a workload."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from resnet_cuda.bench import computation, costs, eager
from resnet_cuda.bench.computation import Random, Way, affine
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer, Network
from resnet_cuda.bench.levels.passes import Prepared, in_both_layouts
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.testing.problems import ConvProblem

raw = torch.ops.resnet_cuda
_PREFIXES = ("reduce_", "convolve_", "expand_")


def ending_whole_blocks(network: Network) -> list[Layer]:
    """Expands of identity blocks around a dense 3x3; where there is no kernel for all, three launches are timed."""
    convolutions = {layer.conv for layer in network.convolutions}
    return [
        layer
        for layer in network.expanding(projection=False)
        if all(of.conv in convolutions for of in _layers(layer)[:-1])
    ]


def bottleneck_block(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The identity block that ends with this expand."""
    layers = _layers(layer)

    def inputs(random: Random) -> Given:
        given = Given(x=random.normal(layer.output))
        for prefix, of in zip(_PREFIXES, layers, strict=True):
            given[f"{prefix}weight"] = random.filters(of.conv)
            given.update(random.batch_norm(of.conv.K, prefix))
        return given

    def ours(g: Given) -> Prepared:
        arguments = [t for prefix in _PREFIXES for t in (g[f"{prefix}weight"], *affine(g, prefix))]
        x = g["x"]
        return lambda: raw._bottleneck_block(x, *arguments)

    def plain(g: Given) -> Mapping[str, Tensor]:
        y = g["x"]
        for prefix, of in zip(_PREFIXES, layers, strict=True):
            own = {name.removeprefix(prefix): t for name, t in g.items() if name.startswith(prefix)}
            y = eager.layer({**own, "x": y, "residual": g["x"]}, of)
        return {"y": y}

    def peer(g: Given) -> Prepared:
        return lambda: plain(g)["y"]

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"block of {layers[0]} to k{layer.conv.K}",
        pass_name="bottleneck_block",
        inputs=inputs,
        plain=plain,
        ways=[Way(OURS, ours), *in_both_layouts(peer)],
        parts=[costs.bottleneck_block([of.conv for of in layers], dtype)],
        part_of_network=layer,
        facts={
            "op": "three convolutions, affine, and the shortcut",
            "peer": "convolutions, batch norms with running statistics, add and ReLUs in place",
        },
    )


def _layers(expand: Layer) -> tuple[Layer, Layer, Layer]:
    """The block's, of which the last one is known."""
    n, k, p, q = expand.output
    c = expand.conv.C
    reduce, middle = ConvProblem(n, k, p, q, c, 1, 1), ConvProblem(n, c, p, q, c, 3, 3, 1, 1)
    inner = [Layer(conv, batch_norm=True, relu=True) for conv in (reduce, middle)]
    return inner[0], inner[1], expand
