"""What the Hopper kernels are to reach, as workloads of the bench: what is predicted, what was measured, the verdict.

Every gate is a limit in microseconds, given what it is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.kernels import prediction
from benchmarks.kernels.prediction import Machine
from resnet_cuda.bench.computation import shrinkable
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Layer
from resnet_cuda.bench.levels import convolution_passes as convolution
from resnet_cuda.bench.results import Row, median_us
from resnet_cuda.bench.tables import BAD, GOOD, Cell, Table, three
from resnet_cuda.bench.workload import Workload
from resnet_cuda.testing.problems import ConvProblem

DTYPE = torch.bfloat16
_FACT = "gate"  # of a workload: the pass's name here
_BATCH = 256
_EDGE = 8192
# Of the dry run: tiles and boxes are incomplete, and the kernels are still Hopper's.
_SMALL_CHANNELS, _SMALL_EDGE = 96, 9


@dataclass(frozen=True)
class Pass:
    """A workload that gates are about."""

    name: str
    make: Callable[[Device, torch.dtype, Layer], Workload]
    layer: Layer

    def small(self) -> Pass:
        """Of the same kind, for the emulator."""
        conv = self.layer.conv
        small = replace(
            conv,
            N=1,
            C=min(conv.C, _SMALL_CHANNELS),
            K=min(conv.K, _SMALL_CHANNELS),
            H=min(conv.H, _SMALL_EDGE),
            W=min(conv.W, _SMALL_EDGE),
        )
        return replace(self, layer=replace(self.layer, conv=small))


@dataclass(frozen=True)
class Gate:
    """One of three kinds of limit. us: the time itself. of_copy: at least this part of a copy's bandwidth, for all
    bytes of the pass. over: at most `factor` times as long as that pass."""

    text: str
    of: Pass
    us: float | None = None
    of_copy: float | None = None
    over: Pass | None = None
    factor: float = 1.0

    def limit_us(self, size: int, bandwidth: float, times: Mapping[str, float]) -> float | None:
        """size: bytes of the pass; bandwidth: of a copy; times: of passes by name. None where a time is missing."""
        if self.us is not None:
            return self.us
        if self.of_copy is not None:
            return 1e6 * size / (self.of_copy * bandwidth)
        assert self.over is not None
        plain = times.get(self.over.name)
        return None if plain is None else self.factor * plain


def _layer(channels: int, filters: int, edge: int, window: int, batch: int = _BATCH) -> Layer:
    conv = ConvProblem(batch, channels, edge, edge, filters, window, window, padding=window // 2)
    return Layer(conv, batch_norm=True, relu=True)


def _gates() -> Iterator[Gate]:
    # [8 x 32 x 32 pixels, 8192 channels] by 8192 filters
    product = Pass("8192^3", convolution.inference, _layer(_EDGE, _EDGE, 32, 1, batch=8))
    yield Gate("8192^3: 700 TFLOP/s", product, us=1e6 * 2 * _EDGE**3 / 700e12)
    reduce = Pass("stage 1's reduce", convolution.reduce, _layer(256, 64, 56, 1))
    yield Gate("stage 1's reduce: 88% of a copy's bandwidth", reduce, of_copy=0.88)
    identities = []
    for stage, (channels, edge, us) in enumerate(
        ((64, 56, 125), (128, 28, 105), (256, 14, 105), (512, 7, 115)), 1
    ):
        layer = _layer(channels, channels, edge, 3)
        identities.append(Pass(f"stage {stage}'s 3x3", convolution.statistics, layer))
        yield Gate(f"{identities[-1].name}: {us} us", identities[-1], us=us)
    for plain in identities:
        on_load = Pass(f"{plain.name} on load", convolution.statistics_on_load, plain.layer)
        yield Gate(f"{on_load.name}: within 5% of plain", on_load, over=plain, factor=1.05)


GATES = tuple(_gates())


def workloads(device: Device, small: bool = False) -> Iterator[tuple[Workload, ConvProblem]]:
    """Every pass that gates are about, once."""
    for of in dict.fromkeys(gate.of for gate in GATES):
        layer = (of.small() if small else of).layer
        yield shrinkable(partial(of.make, device, DTYPE), layer, {_FACT: of.name}), layer.conv


@dataclass(frozen=True)
class Reached:
    """us, limit_us: None where they are not known."""

    gate: str
    us: float | None
    limit_us: float | None

    @property
    def of_limit(self) -> float | None:
        return None if self.us is None or self.limit_us is None else self.us / self.limit_us

    @property
    def verdict(self) -> str:
        if self.of_limit is None:
            return "not measured"
        return "met" if self.of_limit <= 1 else "not met"

    def to_json(self) -> dict[str, Any]:
        return {
            "gate": self.gate,
            "us": self.us and round(self.us, 2),
            "limit_us": self.limit_us and round(self.limit_us, 2),
            "verdict": self.verdict,
        }


def reached(
    times: Mapping[str, float], sizes: Mapping[str, int], bandwidth: float
) -> list[Reached]:
    """times: microseconds of passes by name; sizes: their bytes; bandwidth: of a copy on that device."""
    return [
        Reached(
            gate.text,
            times.get(gate.of.name),
            gate.limit_us(sizes.get(gate.of.name, 0), bandwidth, times),
        )
        for gate in GATES
    ]


def measured(rows: Iterable[Row], bandwidth: float) -> list[Reached]:
    """From results as reports keep them; ours in full size, and right."""
    ours = {
        row["facts"][_FACT]: row
        for row in rows
        if row["ours"] and row["timing"] and _FACT in row["facts"]
    }
    times = {name: median_us(row) for name, row in ours.items()}
    return reached(times, {name: row["bytes"] for name, row in ours.items()}, bandwidth)


def predicted(device: Device, machine: Machine) -> list[Reached]:
    times, sizes = {}, {}
    for workload, conv in workloads(device):
        plan = prediction.plan_of(workload, conv)
        found = prediction.of_workload(workload, conv, plan, machine)
        assert found is not None, f"{workload.title}: {plan['kernel']} has no model"
        times[workload.facts[_FACT]], sizes[workload.facts[_FACT]] = found.us, workload.bytes
    return reached(times, sizes, machine.memory.value)


def table(
    machine: Machine, expected: Sequence[Reached], found: Mapping[str, Mapping[str, Any]]
) -> Table:
    """found: what a hardware run's report says of each gate."""
    rows = []
    for one in expected:
        assert one.us and one.limit_us and one.of_limit
        cells = [Cell(one.gate), Cell(three(one.us)), Cell(three(one.limit_us))]
        cells.append(Cell(f"{one.of_limit:.2f}", GOOD if one.verdict == "met" else BAD))
        cells.append(Cell(one.verdict))
        was = found.get(one.gate, {})
        cells.append(Cell(three(was["us"]) if was.get("us") else "-"))
        rows.append([*cells, Cell(was.get("verdict", "not measured"))])
    header = [
        "gate",
        "predicted us",
        "limit us",
        "of limit",
        "predicted",
        "measured us",
        "measured",
    ]
    note = "limits that depend on a copy or on another pass are computed from what was predicted of those"
    return Table(f"gates, {machine.name}", header, rows, [note])
