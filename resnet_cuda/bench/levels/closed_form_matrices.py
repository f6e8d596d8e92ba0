"""What lies between closed form's passes over pixels as workloads, float64 whatever the dtype; the peer
is the same in torch's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from resnet_cuda.bench import computation, costs
from resnet_cuda.bench.computation import EPS, MOMENTUM, Random, Way
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.levels.passes import Prepared, in_both_layouts
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload

raw = torch.ops.resnet_cuda


def finalize(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """Scale and bias from the Gram matrix."""

    def ours(g: Given) -> Prepared:
        operands = g["weight"], g["sums"], g["gram"], g["shift"], _rows(g)
        vectors = g["gamma"], g["beta"], None, None
        return lambda: raw._closed_form_finalize(*operands, None, None, *vectors, MOMENTUM, EPS)

    def plain(g: Given) -> Mapping[str, Tensor]:
        weight, rows, acc = _matrix(g), _rows(g), g["gamma"].dtype
        mean = g["sums"] / rows
        covariance = g["gram"] - rows * torch.outer(mean, mean)
        var = ((weight @ covariance) * weight).sum(1).clamp_min(0) / rows
        shifted, invstd = weight @ mean, torch.rsqrt(var + EPS)
        scale = invstd * g["gamma"].double()
        output_mean = shifted + weight @ g["shift"].double()
        results = {"mean": mean, "output_mean": output_mean, "invstd": invstd, "scale": scale}
        results["bias"] = g["beta"].double() - scale * shifted
        return {name: result.to(acc) for name, result in results.items()}

    def read(result: Any) -> Sequence[Tensor]:
        mean, _, *others, scale, bias = result
        return *(t.to(scale.dtype) for t in (mean, *others)), scale, bias

    return _workload(device, dtype, layer, "closed_form_finalize", ours, plain, read)


def backward_reduce(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """gamma's gradient from the product of gradient and activation."""

    def ours(g: Given) -> Prepared:
        operands = g["weight"], g["product"], g["gradient_sums"], g["mean"], None, g["invstd"]
        return lambda: raw._closed_form_backward_reduce(*operands)

    def plain(g: Given) -> Mapping[str, Tensor]:
        centred = g["product"] - torch.outer(g["gradient_sums"], g["mean"])
        dgamma = g["invstd"] * (centred * _matrix(g)).sum(1)
        return {"dgamma": dgamma.to(g["gamma"].dtype)}

    def read(result: Any) -> Sequence[Tensor]:
        return (result[0].to(torch.promote_types(dtype, torch.float32)),)

    return _workload(device, dtype, layer, "closed_form_backward_reduce", ours, plain, read)


def backward_finalize(device: Device, dtype: torch.dtype, layer: Layer) -> Workload:
    """The filters' gradient, and the matrices and the constant of the input's."""

    def ours(g: Given) -> Prepared:
        sums = g["product"], g["gradient_sums"], g["gram"], g["mean"], None, None
        vectors = g["shift"], g["invstd"], g["gamma"], g["dgamma"], g["gradient_sums"]
        operands = g["weight"], *sums, *vectors, _rows(g), None
        return lambda: raw._closed_form_backward_finalize(*operands, True, True)

    def plain(g: Given) -> Mapping[str, Tensor]:
        weight, rows, mean = _matrix(g), _rows(g), g["mean"]
        kept, acc = g["weight"].dtype, g["gamma"].dtype
        s1 = g["invstd"] * g["gamma"].double()
        s2 = -s1 * g["invstd"] * g["dgamma"] / rows
        covariance = g["gram"] - rows * torch.outer(mean, mean)
        centred = g["product"] - torch.outer(g["gradient_sums"], mean)
        dweight = s1[:, None] * centred + s2[:, None] * (weight @ covariance)
        of_gradient = (s1[:, None] * weight).to(kept)
        matrix = weight.T @ (s2[:, None] * weight)
        constant = -(g["gradient_sums"] / rows) @ of_gradient.double() - mean @ matrix
        return {
            "dweight": dweight.to(kept),
            "of_gradient": of_gradient,
            "of_operand": matrix.to(kept),
            "constant": constant.to(acc),
        }

    def read(result: Any) -> Sequence[Tensor]:
        dweight, of_gradient, of_operand, constant = result
        parts = of_operand.double().view(-1, *[layer.conv.C] * 2)  # 16 bits come twice
        return dweight.flatten(1), of_gradient, parts.sum(0).to(dtype), constant

    return _workload(device, dtype, layer, "closed_form_backward_finalize", ours, plain, read)


def _matrix(g: Given) -> Tensor:
    return g["weight"].flatten(1).double()


def _rows(g: Given) -> int:
    """Of which the sums are."""
    return 2 * len(g["sums"])


def _workload(
    device: Device,
    dtype: torch.dtype,
    layer: Layer,
    pass_name: str,
    ours: Callable[[Given], Prepared],
    plain: Callable[[Given], Mapping[str, Tensor]],
    read: Callable[[Any], Sequence[Tensor]],
) -> Workload:
    conv = layer.conv

    def inputs(random: Random) -> Given:
        a, u = (random.normal((2 * conv.C, n, 1, 1)).flatten(1).double() for n in (conv.C, conv.K))
        return Given(
            weight=random.filters(conv),
            gamma=random.vector(conv.K, 0.5, 1.5),
            beta=random.vector(conv.K, -0.8, 0.8),
            shift=random.vector(conv.C, -0.8, 0.8),
            **{"sums": a.sum(0), "gram": a.T @ a, "mean": a.mean(0)},
            **{"gradient_sums": u.sum(0), "product": u.T @ a},
            invstd=random.vector(conv.K, 0.5, 1.5).double(),
            dgamma=random.vector(conv.K, -1, 1).double(),
        )

    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{conv} matrices",
        pass_name=pass_name,
        inputs=inputs,
        plain=plain,
        ways=[
            Way(OURS, ours, Reading(read)),
            *in_both_layouts(lambda g: lambda: tuple(plain(g).values())),
        ],
        parts=[costs.closed_form(pass_name, conv, dtype)],
        part_of_network=layer,
        facts={"peer": "the same in ATen ops, in float64"},
    )
