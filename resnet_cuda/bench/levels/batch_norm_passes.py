"""The kernels' batch norm passes as workloads.

Peers of single passes are the ops that torch's SyncBatchNorm is made of. They exist on a GPU only; on a dry run their
formulas stand in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from resnet_cuda.bench import costs, eager
from resnet_cuda.bench.computation import EPS, MOMENTUM, Random, affine, for_statistics
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise
from resnet_cuda.bench.levels.passes import (
    Prepared,
    by_mask,
    merge_statistics,
    opened,
    pack_mask,
    pass_workload,
    statistics_of,
    tile_sizes,
)
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Workload
from resnet_cuda.ops._interface import accumulator_dtype

raw = torch.ops.resnet_cuda


def bn_statistics(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    norm = for_statistics(norm)

    def plain(g: Given) -> Mapping[str, Tensor]:
        mean, invstd = eager.batch_statistics(g["y"])
        return {"mean": mean, "invstd": invstd}

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_statistics",
        inputs=lambda random: Given(y=random.normal(norm.shape)),
        plain=plain,
        ours=lambda g: lambda: raw._bn_statistics(g["y"]),
        read=lambda partials: statistics_of(partials, _pixels(norm)),
        peer=lambda g: lambda: eager.batch_statistics(g["y"]),
        part=costs.elementwise(norm.shape, dtype, tensors=1, statistics=True),
        says="batch_norm_stats: mean and invstd, ours are partial sums",
    )


def bn_finalize(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    norm = for_statistics(norm)
    rows, channels = _pixels(norm), norm.shape[1]

    def inputs(random: Random) -> Given:
        tiles = costs.statistics_tiles(norm.shape)
        means = random.vector(tiles * channels, -1, 1).view(tiles, channels)
        deviations = random.vector(tiles * channels, 32, 96).view(tiles, channels)
        return Given(partials=torch.stack((means, deviations), 1), **random.batch_norm(channels))

    def merge(g: Given, sizes: Tensor) -> Mapping[str, Tensor]:
        mean, var = merge_statistics(g["partials"], sizes, rows)
        g["running_mean"].lerp_(mean, MOMENTUM)
        g["running_var"].lerp_(var * (rows / (rows - 1)), MOMENTUM)
        invstd = torch.rsqrt(var + EPS)
        scale = g["gamma"] * invstd
        return {
            "mean": mean,
            "invstd": invstd,
            "scale": scale,
            "bias": g["beta"] - mean * scale,
            "running_mean": g["running_mean"],
            "running_var": g["running_var"],
        }

    def peer(g: Given) -> Callable[[], Mapping[str, Tensor]]:
        return partial(merge, g, tile_sizes(g["partials"], rows))

    def ours(g: Given) -> Prepared:
        running = [g["running_mean"], g["running_var"]]
        vectors = [g["gamma"], g["beta"], *running]

        def run() -> object:
            return *raw._bn_finalize(g["partials"], rows, *vectors, MOMENTUM, EPS), *running

        return run

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_finalize",
        inputs=inputs,
        plain=lambda g: peer(g.fresh())(),
        ours=lambda g: ours(g.fresh()),
        peer=lambda g: peer(g.fresh()),
        read_peer=lambda output: list(output.values()),
        part=costs.bn_finalize(norm, dtype),
        says="the merge of the partial sums in ATen ops",
    )


def bn_apply(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    """z = relu?(y scale + bias + residual?), with the ReLU's bit mask where a residual is added."""
    masked = norm.relu and norm.residual

    def inputs(random: Random) -> Given:
        given = Given(y=random.normal(norm.shape), **random.batch_norm(norm.shape[1]))
        if norm.residual:
            given["residual"] = random.normal(norm.shape)
        return given

    def peer(g: Given) -> Tensor:
        z = eager.batch_norm(g["y"], g)
        if norm.residual:
            z.add_(g["residual"])
        return z.relu_() if norm.relu else z

    def plain(g: Given) -> Mapping[str, Tensor]:
        z = peer(g)
        return {"z": z, "what the mask lets through": z} if masked else {"z": z}

    def ours(g: Given) -> Prepared:
        scale, bias = affine(g)
        y, residual = g["y"], g.get("residual")
        return lambda: raw._bn_apply(y, scale, bias, residual, norm.relu, masked)

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_apply",
        inputs=inputs,
        plain=plain,
        ours=ours,
        read=(lambda output: by_mask(*output)) if masked else (lambda output: output[:1]),
        peer=lambda g: partial(peer, g),
        read_peer=lambda z: (z, z) if masked else (z,),
        part=costs.bn_apply(norm, dtype),
        says="batch norm with running statistics, add and ReLU in place; no mask",
    )


def bn_backward_reduce(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    """The sums of g and of g (y - mean) over all pixels, with g = dz where the ReLU was open."""

    def plain(g: Given) -> Mapping[str, Tensor]:
        gated, centred = _wide(opened(g)), _wide(g["y"]) - _column(g["mean"])
        return {"sum": gated.sum((0, 2, 3)), "moment": (gated * centred).sum((0, 2, 3))}

    def peer(g: Given) -> Prepared:
        if not g["y"].is_cuda:
            return lambda: tuple(plain(g).values())
        vectors = (g["mean"], g["invstd"], g["gamma"])
        return lambda: torch.batch_norm_backward_reduce(
            opened(g), g["y"], *vectors, True, False, False
        )[:2]

    def ours(g: Given) -> Prepared:
        gate = _gate(g, norm)
        return lambda: raw._bn_backward_reduce(g["dz"], g["y"], g["mean"], *gate)

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_backward_reduce",
        inputs=partial(_backward_inputs, norm),
        plain=plain,
        ours=ours,
        read=lambda partials: partials.double().sum(0).to(partials.dtype).unbind(0),
        peer=peer,
        part=costs.bn_backward_reduce(norm, dtype),
        says="threshold_backward, then batch_norm_backward_reduce",
    )


def bn_backward_finalize(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    """From the partial sums to dgamma, dbeta and the four coefficients of dy."""
    rows, channels = _pixels(norm), norm.shape[1]

    def inputs(random: Random) -> Given:
        tiles = costs.statistics_tiles(norm.shape)
        sums = random.vector(tiles * 2 * channels, -8, 8).view(tiles, 2, channels)
        vectors = {"mean": (-1, 1), "invstd": (0.5, 1.5), "gamma": (0.5, 1.5)}
        return Given(
            partials=sums, **{name: random.vector(channels, *r) for name, r in vectors.items()}
        )

    def plain(g: Given) -> Mapping[str, Tensor]:
        total, moment = g["partials"].sum(0).unbind(0)
        coefficients = _coefficients(g, total, moment, rows)
        return {"dgamma": moment * g["invstd"], "dbeta": total, "coefficients": coefficients}

    def ours(g: Given) -> Prepared:
        vectors = (g["gamma"], g["mean"], g["invstd"])
        return lambda: raw._bn_backward_finalize(g["partials"], rows, *vectors, True)

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_backward_finalize",
        inputs=inputs,
        plain=plain,
        ours=ours,
        peer=lambda g: lambda: tuple(plain(g).values()),
        part=costs.bn_backward_finalize(norm, dtype),
        says="the merge of the partial sums in ATen ops",
    )


def bn_backward_apply(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    """dy of batch norm, and the residual's gradient where a ReLU follows the addition."""
    rows = _pixels(norm)
    both = norm.relu and norm.residual

    def inputs(random: Random) -> Given:
        given = _backward_inputs(norm, random)
        for name in ("total", "moment"):
            given[name] = random.vector(norm.shape[1], -0.5, 0.5) * rows
        return given

    def outputs(gated: Tensor, dy: Tensor) -> Mapping[str, Tensor]:
        return {"dy": dy, "dresidual": gated} if both else {"dy": dy}

    def plain(g: Given) -> Mapping[str, Tensor]:
        gated = opened(g)
        c0, c1, c2, c3 = map(_column, _coefficients(g, g["total"], g["moment"], rows))
        dy = c0 * _wide(gated) + (c1 * (_wide(g["y"]) - c3) + c2)
        return outputs(gated, dy.to(gated.dtype))

    def peer(g: Given) -> Prepared:
        if not g["y"].is_cuda:
            return lambda: tuple(plain(g).values())
        vectors = (g["mean"], g["invstd"], g["gamma"], g["total"], g["moment"])
        count = torch.tensor([rows], dtype=torch.int32, device=g["y"].device)

        def run() -> object:
            gated = opened(g)
            dy = torch.batch_norm_backward_elemt(gated, g["y"], *vectors, count)
            return tuple(outputs(gated, dy).values())

        return run

    def ours(g: Given) -> Prepared:
        gate = _gate(g, norm)
        coefficients = _coefficients(g, g["total"], g["moment"], rows)
        return lambda: raw._bn_backward_apply(g["dz"], g["y"], *gate, coefficients, both)

    return pass_workload(
        device,
        dtype,
        norm,
        "bn_backward_apply",
        inputs=inputs,
        plain=plain,
        ours=ours,
        read=lambda output: output if both else output[:1],
        peer=peer,
        part=costs.bn_backward_apply(norm, dtype),
        says="threshold_backward, then batch_norm_backward_elemt",
    )


def _backward_inputs(norm: Elementwise, random: Random) -> Given:
    """dz, y, z (the ReLU's output, where there is one) and the vectors of a batch norm's backward."""
    given = Given(
        dz=random.normal(norm.shape),
        y=random.normal(norm.shape),
        **random.batch_norm(norm.shape[1]),
    )
    given["mean"] = given["running_mean"]
    given["invstd"] = torch.rsqrt(given["running_var"] + EPS)
    if norm.relu and norm.residual:
        given["z"] = random.normal(norm.shape).relu()
    elif norm.relu:
        scale, bias = map(_column, affine(given))
        before = _wide(given["y"]) * scale + bias
        given["z"] = before.relu().to(random.dtype)
        margin = 1e-5 * before.abs().max()  # float32 decides the gate from the very same y
        given["dz"] = torch.where(before.abs() > margin, given["dz"], 0)
    return given


def _gate(g: Given, norm: Elementwise) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """(mask, scale, bias) as the backward passes take them."""
    if not norm.relu:
        return None, None, None
    return (pack_mask(g["z"] > 0), None, None) if norm.residual else (None, *affine(g))


def _coefficients(g: Given, total: Tensor, moment: Tensor, rows: int) -> Tensor:
    """[4, C] with dy = c0 g + (c1 (y - c3) + c2)."""
    scale = g["gamma"] * g["invstd"]
    slope = -scale * g["invstd"].square() * (moment / rows)
    return torch.stack((scale, slope, -scale * (total / rows), g["mean"]))


def _wide(x: Tensor) -> Tensor:
    return x.to(accumulator_dtype(x.dtype))


def _column(vector: Tensor) -> Tensor:
    return vector.view(-1, 1, 1)


def _pixels(norm: Elementwise) -> int:
    return norm.shape[0] * norm.shape[2] * norm.shape[3]
