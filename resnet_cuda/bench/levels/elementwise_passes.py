"""The kernels' passes outside convolutions - batch norm, addition with ReLU, pools - as workloads.

Peers of single batch norm passes are the ops that torch's SyncBatchNorm is made of. They exist on a GPU only; on a dry
run their formulas stand in for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.bench import computation, costs, eager
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import EAGER, EPS, MOMENTUM, Random, Way, affine
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Elementwise, Pool
from resnet_cuda.bench.levels.convolution_passes import merge_statistics, statistics_of
from resnet_cuda.bench.rule import Given, Reading
from resnet_cuda.bench.workload import OURS, Workload
from resnet_cuda.ops._interface import accumulator_dtype
from resnet_cuda.ops._kernels import unpack_mask

Prepared = Callable[[], object]
Prepare = Callable[[Given], Prepared]
raw = torch.ops.resnet_cuda
_aten = torch.ops.aten


def _workload(
    device: Device,
    dtype: torch.dtype,
    part_of_network: Elementwise | Pool,
    pass_name: str,
    *,
    inputs: Callable[[Random], Given],
    plain: Callable[[Given], Mapping[str, Tensor]],
    ours: Prepare,
    peer: Prepare,
    part: Part,
    says: str,
    read: Callable[[Any], Sequence[Tensor | None]] | None = None,
    read_peer: Callable[[Any], Sequence[Tensor | None]] | None = None,
) -> Workload:
    relu = isinstance(part_of_network, Elementwise) and part_of_network.relu
    return computation.workload(
        device,
        dtype,
        level="kernel",
        name=f"{part_of_network}{' relu' if relu else ''}",
        pass_name=pass_name,
        inputs=inputs,
        plain=plain,
        ways=[Way(OURS, ours, Reading(read)), Way(EAGER, peer, Reading(read_peer))],
        parts=[part],
        part_of_network=part_of_network,
        facts={"peer": says},
    )


def bn_statistics(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    def plain(g: Given) -> Mapping[str, Tensor]:
        mean, invstd = eager.batch_statistics(g["y"])
        return {"mean": mean, "invstd": invstd}

    return _workload(
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
    rows, channels = _pixels(norm), norm.shape[1]

    def inputs(random: Random) -> Given:
        tiles = costs.statistics_tiles(norm.shape)
        means = random.vector(tiles * channels, -1, 1).view(tiles, channels)
        deviations = random.vector(tiles * channels, 32, 96).view(tiles, channels)
        return Given(partials=torch.stack((means, deviations), 1), **random.batch_norm(channels))

    def plain(g: Given) -> Mapping[str, Tensor]:
        mean, var = merge_statistics(g["partials"], rows)
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

    def ours(g: Given) -> Prepared:
        running = [g["running_mean"], g["running_var"]]
        vectors = [g["gamma"], g["beta"], *running]

        def run() -> object:
            return *raw._bn_finalize(g["partials"], rows, *vectors, MOMENTUM, EPS), *running

        return run

    return _workload(
        device,
        dtype,
        norm,
        "bn_finalize",
        inputs=inputs,
        plain=lambda g: plain(g.fresh()),
        ours=lambda g: ours(g.fresh()),
        peer=lambda g: partial(plain, g.fresh()),
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
            z = z + g["residual"]
        return z.relu_() if norm.relu else z

    def plain(g: Given) -> Mapping[str, Tensor]:
        z = peer(g)
        return {"z": z, "what the mask lets through": z} if masked else {"z": z}

    def ours(g: Given) -> Prepared:
        scale, bias = affine(g)
        y, residual = g["y"], g.get("residual")
        return lambda: raw._bn_apply(y, scale, bias, residual, norm.relu, masked)

    return _workload(
        device,
        dtype,
        norm,
        "bn_apply",
        inputs=inputs,
        plain=plain,
        ours=ours,
        read=(lambda output: _gated(*output)) if masked else (lambda output: output[:1]),
        peer=lambda g: partial(peer, g),
        read_peer=lambda z: (z, z) if masked else (z,),
        part=costs.bn_apply(norm, dtype),
        says="batch norm with running statistics, add, ReLU in place",
    )


def bn_backward_reduce(device: Device, dtype: torch.dtype, norm: Elementwise) -> Workload:
    """The sums of g and of g (y - mean) over all pixels, with g = dz where the ReLU was open."""

    def plain(g: Given) -> Mapping[str, Tensor]:
        gated, centred = _wide(_open(g)), _wide(g["y"]) - _column(g["mean"])
        return {"sum": gated.sum((0, 2, 3)), "moment": (gated * centred).sum((0, 2, 3))}

    def peer(g: Given) -> Prepared:
        if not g["y"].is_cuda:
            return lambda: tuple(plain(g).values())
        vectors = (g["mean"], g["invstd"], g["gamma"])
        return lambda: torch.batch_norm_backward_reduce(
            _open(g), g["y"], *vectors, True, False, False
        )[:2]

    def ours(g: Given) -> Prepared:
        gate = _gate(g, norm)
        return lambda: raw._bn_backward_reduce(g["dz"], g["y"], g["mean"], *gate)

    return _workload(
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

    return _workload(
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
        gated = _open(g)
        c0, c1, c2, c3 = map(_column, _coefficients(g, g["total"], g["moment"], rows))
        dy = c0 * _wide(gated) + (c1 * (_wide(g["y"]) - c3) + c2)
        return outputs(gated, dy.to(gated.dtype))

    def peer(g: Given) -> Prepared:
        if not g["y"].is_cuda:
            return lambda: tuple(plain(g).values())
        vectors = (g["mean"], g["invstd"], g["gamma"], g["total"], g["moment"])
        count = torch.tensor([rows], dtype=torch.int32, device=g["y"].device)

        def run() -> object:
            gated = _open(g)
            dy = torch.batch_norm_backward_elemt(gated, g["y"], *vectors, count)
            return tuple(outputs(gated, dy).values())

        return run

    def ours(g: Given) -> Prepared:
        gate = _gate(g, norm)
        coefficients = _coefficients(g, g["total"], g["moment"], rows)
        return lambda: raw._bn_backward_apply(g["dz"], g["y"], *gate, coefficients, both)

    return _workload(
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


def add_relu_forward(device: Device, dtype: torch.dtype, addition: Elementwise) -> Workload:
    def peer(g: Given) -> Tensor:
        return (g["x"] + g["residual"]).relu_()

    def plain(g: Given) -> Mapping[str, Tensor]:
        z = peer(g)
        return {"z": z, "what the mask lets through": z}

    return _workload(
        device,
        dtype,
        addition,
        "add_relu_forward",
        inputs=lambda random: Given(
            x=random.normal(addition.shape), residual=random.normal(addition.shape)
        ),
        plain=plain,
        ours=lambda g: lambda: raw._add_relu_forward(g["x"], g["residual"], True),
        read=lambda output: _gated(*output),
        peer=lambda g: partial(peer, g),
        read_peer=lambda z: (z, z),
        part=costs.elementwise(addition.shape, dtype, tensors=3, mask=True),
        says="add, ReLU in place; no mask",
    )


def add_relu_backward(device: Device, dtype: torch.dtype, addition: Elementwise) -> Workload:
    def ours(g: Given) -> Prepared:
        mask = pack_mask(g["z"] > 0)
        return lambda: raw._add_relu_backward(g["dz"], mask)

    return _workload(
        device,
        dtype,
        addition,
        "add_relu_backward",
        inputs=lambda random: Given(
            dz=random.normal(addition.shape), z=random.normal(addition.shape).relu()
        ),
        plain=lambda g: {"dx": _open(g)},
        ours=ours,
        peer=lambda g: partial(_open, g),
        part=costs.elementwise(addition.shape, dtype, tensors=2, mask=True),
        says="threshold_backward, which reads the output in place of the mask",
    )


def max_pool_forward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    window = (pool.kernel, pool.stride, pool.padding)

    def peer(g: Given) -> tuple[Tensor, Tensor]:
        return _aten.max_pool2d_with_indices.default(g["x"], *([size] * 2 for size in window))

    return _workload(
        device,
        dtype,
        pool,
        "max_pool_forward",
        inputs=lambda random: Given(x=random.normal(pool.shape)),
        plain=lambda g: {"y": peer(g)[0]},
        ours=lambda g: lambda: raw._max_pool_forward(g["x"], *window, True),
        read=lambda output: output[:1],
        peer=lambda g: partial(peer, g),
        read_peer=lambda output: output[:1],
        part=costs.max_pool(pool, dtype),
        says="max_pool2d_with_indices: indices of 8 bytes, ours have one",
    )


def max_pool_backward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    window = (pool.kernel, pool.stride, pool.padding)
    pairs = [[size] * 2 for size in window]

    def peer(g: Given) -> Callable[[], Tensor]:
        indices = _aten.max_pool2d_with_indices.default(g["x"], *pairs)[1]
        return lambda: _aten.max_pool2d_with_indices_backward.default(
            g["dy"], g["x"], *pairs, [1, 1], False, indices
        )

    def ours(g: Given) -> Prepared:
        winners = raw._max_pool_forward(g["x"], *window, True)[1]
        return lambda: raw._max_pool_backward(g["dy"], winners, pool.shape, *window)

    return _workload(
        device,
        dtype,
        pool,
        "max_pool_backward",
        inputs=lambda random: Given(x=random.normal(pool.shape), dy=random.normal(pool.output)),
        plain=lambda g: {"dx": peer(g)()},
        ours=ours,
        peer=peer,
        part=costs.max_pool(pool, dtype),
        says="max_pool2d_with_indices_backward: indices of 8 bytes, ours have one",
    )


def average_pool_forward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    def peer(g: Given) -> Tensor:
        return F.adaptive_avg_pool2d(g["x"], 1)

    return _workload(
        device,
        dtype,
        pool,
        "global_avg_pool_forward",
        inputs=lambda random: Given(x=random.normal(pool.shape)),
        plain=lambda g: {"y": peer(g)},
        ours=lambda g: lambda: raw._global_avg_pool_forward(g["x"]),
        peer=lambda g: partial(peer, g),
        part=costs.average_pool(pool, dtype),
        says="adaptive_avg_pool2d",
    )


def average_pool_backward(device: Device, dtype: torch.dtype, pool: Pool) -> Workload:
    pixels = pool.shape[2] * pool.shape[3]

    def peer(g: Given) -> Tensor:
        spread = (g["dy"] / pixels).expand(pool.shape)
        return spread.contiguous(memory_format=torch.channels_last)

    return _workload(
        device,
        dtype,
        pool,
        "global_avg_pool_backward",
        inputs=lambda random: Given(dy=random.normal(pool.output)),
        plain=lambda g: {"dx": peer(g)},
        ours=lambda g: lambda: raw._global_avg_pool_backward(g["dy"], pool.shape),
        peer=lambda g: partial(peer, g),
        part=costs.average_pool(pool, dtype),
        says="the quotient, expanded and stored",
    )


def pack_mask(keep: Tensor) -> Tensor:
    """bool [N, C, H, W] -> the kernels' bit mask: uint8 [ceil(N C H W / 8)], NHWC order."""
    flat = keep.permute(0, 2, 3, 1).reshape(-1).to(torch.uint8)
    bytes_ = F.pad(flat, (0, -flat.numel() % 8)).view(-1, 8)
    shifts = torch.arange(8, dtype=torch.uint8, device=keep.device)
    return (bytes_ << shifts).sum(1, dtype=torch.uint8)


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


def _open(g: Given) -> Tensor:
    """dz where the ReLU let something through, else 0."""
    return _aten.threshold_backward.default(g["dz"], g["z"], 0) if "z" in g else g["dz"]


def _gated(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(z, z as the mask lets it through); a bit that is set where z is 0 shows as a 1."""
    kept = torch.where(z == 0, torch.ones_like(z), z)
    return z, torch.where(unpack_mask(mask, z.shape), kept, 0)


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
