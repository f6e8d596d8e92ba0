"""One computation and the ways to do it, as a workload: shared inputs, candidates, and the judge of their outputs."""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from resnet_cuda.bench import layers
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer, Network, Shape
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.rule import Given, Judge, Reading
from resnet_cuda.bench.workload import OURS, Candidate, Workload
from resnet_cuda.ops._interface import accumulator_dtype
from resnet_cuda.testing.problems import ConvProblem

EAGER, EAGER_NCHW = "eager channels_last", "eager NCHW"
COMPLETE = "resnet50"  # has every kind of layer, and lends those that the plan's network lacks
EPS, MOMENTUM = 1e-5, 0.1
_LEAST_VALUES = 64  # per channel
_CHECKING = 4  # activations in float64 that exist at once while outputs are checked, per tensor of the workload


class Random:
    """Seeded random tensors on a device; activations and filters in channels_last memory."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, shape: Sequence[int], scale: float = 1.0) -> Tensor:
        """[N, C, H, W], standard deviation `scale`."""
        n, c, h, w = shape
        nhwc = torch.randn((n, h, w, c), generator=self._generator, device=self.device)
        return (nhwc * scale).to(self.dtype).permute(0, 3, 1, 2)

    def filters(self, conv: ConvProblem) -> Tensor:
        """[K, C / groups, R, S], of a size that keeps the activations' (He et al. 2015)."""
        fan_in = conv.C // conv.groups * conv.R * conv.S
        shape = (conv.K, conv.C // conv.groups, conv.R, conv.S)
        return self.normal(shape, (2 / fan_in) ** 0.5)

    def vector(self, size: int, low: float, high: float) -> Tensor:
        """[size], uniform, in the accumulator's dtype."""
        uniform = torch.rand(size, generator=self._generator, device=self.device)
        return (low + (high - low) * uniform).to(accumulator_dtype(self.dtype))

    def batch_norm(self, channels: int, prefix: str = "") -> dict[str, Tensor]:
        """gamma, beta, running_mean, running_var, under names with that prefix."""
        return {
            prefix + "gamma": self.vector(channels, 0.5, 1.5),
            prefix + "beta": self.vector(channels, -0.8, 0.8),
            prefix + "running_mean": self.vector(channels, -0.5, 0.5),
            prefix + "running_var": self.vector(channels, 0.5, 1.5),
        }


def convolution_inputs(layer: Layer, random: Random) -> Given:
    """x, weight, the batch norm's vectors and, where the layer has them, residual or the projection's tensors."""
    conv = layer.conv
    given = Given(
        x=random.normal((conv.N, conv.C, conv.H, conv.W)),
        weight=random.filters(conv),
        **random.batch_norm(conv.K),
    )
    projection = layer.projection
    if projection:
        shape = (projection.N, projection.C, projection.H, projection.W)
        given.update(
            residual=random.normal(shape),
            projection_weight=random.filters(projection),
            **random.batch_norm(projection.K, "projection_"),
        )
    elif layer.residual:
        given["residual"] = random.normal(layer.output)
    return given


def affine(given: Given, prefix: str = "") -> tuple[Tensor, Tensor]:
    """(scale, bias) of a batch norm with its running statistics."""
    gamma, beta, mean, var = (
        given[prefix + name] for name in ("gamma", "beta", "running_mean", "running_var")
    )
    scale = gamma * torch.rsqrt(var + EPS)
    return scale, beta - mean * scale


def away_from_gate(dz: Tensor, preactivation: Tensor) -> Tensor:
    """dz with zeros where the exact preactivation of a ReLU is so small that rounding may decide about the gate.

    There a gradient moves by a whole element of dz, and who flips fewer gates is luck. The margin is bfloat16's, which
    autocast candidates round to.
    """
    margin = 2 * torch.finfo(torch.bfloat16).eps * preactivation.abs().max()
    return torch.where(preactivation.abs() > margin, dz, 0)


@dataclass(frozen=True)
class Way:
    """A candidate before it has a device: `prepare` takes the inputs and returns what is timed."""

    name: str
    prepare: Callable[[Given], Callable[[], object]]
    reading: Reading = field(default_factory=Reading)
    preparing_seconds: float = 0.0


class _Shared:
    """Inputs that are made on first use and live as long as a candidate holds them."""

    def __init__(self, make: Callable[[], Given]) -> None:
        self._make = make
        self._given: weakref.ref[Given] | None = None

    def __call__(self) -> Given:
        given = self._given() if self._given else None
        if given is None:
            given = self._make().sealed()
            self._given = weakref.ref(given)
        return given


def workload(
    device: Device,
    dtype: torch.dtype,
    *,
    level: str,
    name: str,
    pass_name: str,
    inputs: Callable[[Random], Given],
    plain: Callable[[Given], Mapping[str, Tensor]],
    ways: Sequence[Way],
    parts: Sequence[Part],
    part_of_network: Subject,
    chained: Sequence[str] = (),
    gate: float = 0.0,
    facts: Mapping[str, Any] | None = None,
) -> Workload:
    """A workload whose candidates all get the same inputs and are all judged against `plain` (see Judge)."""
    seed = zlib.crc32(f"{name} {dtype}".encode())
    given = _Shared(lambda: inputs(Random(device.torch_device, dtype, seed)))
    size = sum(part[1] for part in parts)
    return Workload(
        level,
        name,
        pass_name,
        dtype,
        flops=sum(part[0] for part in parts),
        bytes=size,
        candidates=[_candidate(way, given) for way in ways],
        check=Judge(given, plain, {way.name: way.reading for way in ways}, chained, gate),
        images=part_of_network.batch,
        count=part_of_network.count,
        parts=list(parts),
        memory=size + _CHECKING * (size // dtype.itemsize) * 8,
        facts=dict(facts or {}),
    )


def _candidate(way: Way, given: _Shared) -> Candidate:
    def prepare() -> Callable[[], object]:
        inputs = given()
        run = way.prepare(inputs)

        def function(keep: Given = inputs) -> object:  # the inputs live as long as their users
            return run()

        return function

    return Candidate(
        way.name, prepare, way.name.startswith(OURS), preparing_seconds=way.preparing_seconds
    )


class Subject(Protocol):
    """A part of a network (see layers) at some batch size."""

    @property
    def batch(self) -> int: ...
    @property
    def count(self) -> int: ...


S = TypeVar("S", bound="Shrinkable")


class Shrinkable(Subject, Protocol):
    @property
    def output(self) -> Shape: ...
    def at_batch(self: S, batch: int) -> S: ...


def for_statistics(subject: S) -> S:
    """At a batch with enough values per channel in the output: of few values, a channel whose variance happens to be
    small is nothing but rounding, and so is batch norm's gradient through it."""
    _, _, height, width = subject.output
    return subject.at_batch(max(subject.batch, -(-_LEAST_VALUES // (height * width))))


def shrinkable(make: Callable[[S], Workload], subject: S, facts: Mapping[str, Any]) -> Workload:
    """make(subject) with those facts, too, and `smaller` halving the batch, as far as `make` has no least batch (see
    for_statistics)."""
    result = make(subject)
    result.facts |= facts

    def smaller() -> Workload | None:
        less = shrinkable(make, subject.at_batch(subject.batch // 2), facts)
        return less if less.images < result.images else None

    if subject.batch > 1:
        result.smaller = smaller
    return result


class Source:
    """Where a level takes its layers from: the plan's first network."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.name = plan.networks[0]
        self.network, self._complete = (
            layers.network(name, plan.batch, plan.image_size) for name in (self.name, COMPLETE)
        )

    def subjects(
        self, select: Callable[[Network], Sequence[S]], network: Network | None = None
    ) -> Iterator[tuple[S, dict[str, Any]]]:
        """Those of a kind, with the facts for the report; one of another network's where there is none. `network`: a
        part of this one, to take fewer.

        Only where all of a kind are there do the facts name the "network", to which its layers add up.
        """
        found = select(self.network if network is None else network)
        for subject in found[: self._plan.first_layers]:
            whole = self._plan.first_layers is None
            yield subject, {"layer_of": self.name, **({"network": self.name} if whole else {})}
        if not found:
            for subject in select(self._complete)[:1]:
                yield subject, {"layer_of": COMPLETE}
