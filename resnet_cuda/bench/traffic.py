"""Memory traffic of a network without a GPU: our kernels' as the emulator counts it, eager's as its operations need it.

Three figures for the same network, weights and images:
- ours: the fused network on the emulator; of each launch the bytes that it touches, each once (an ideal cache). What
  it still leaves to torch (the classifier, say) counts as for eager;
- eager's: the operands of every operation of the plain network (operations.py says what is counted how often);
- the minimum: every operand of each fused unit once (`resnet_cuda.explain`), of pools and matrix products likewise. It
  counts all of a strided 1x1 convolution's input, of which kernels touch a quarter, and stores every unit's output, so
  that a kernel that does two units at once can move less.
A training step is the forward pass and the backward pass from the logits' gradient, without loss and optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from resnet_cuda import models, unfuse
from resnet_cuda.bench.operations import BACKWARD, FORWARD, Operation, Recorder
from resnet_cuda.bench.tables import BAD, Cell, Table
from resnet_cuda.explain import explain
from resnet_cuda.testing import emulated

CONVOLUTION, NORM, POOLING, REST = "convolution", "batch norm, add, ReLU", "pooling", "the rest"
TOTAL = "total"
KINDS = (CONVOLUTION, NORM, POOLING, REST)
# The first that is part of an operation's or a kernel's name.
_KINDS = (
    ("addmm", REST),
    ("batch_norm", NORM),
    ("bn_", NORM),
    ("relu", NORM),
    ("threshold", NORM),
    ("::add", NORM),
    ("conv_max_pool", CONVOLUTION),
    ("pool", POOLING),
    ("::mean", POOLING),
    ("conv", CONVOLUTION),
    ("bottleneck", CONVOLUTION),
)
_MATRIX_PRODUCTS = ("aten::addmm", "aten::mm")
_SECTOR = 32
_MEGA = 1e6


def kind_of(name: str) -> str:
    return next((kind for part, kind in _KINDS if part in name), REST)


@dataclass(frozen=True)
class Row:
    """A kernel, summed over its launches, or an operation of torch, over its calls. Bytes."""

    name: str
    phase: str
    layer: str
    calls: int
    distinct: int
    asked: int | None = None  # by the kernel's threads; None for torch's operations
    sectors: int | None = None  # of 32 bytes, by the warps' instructions, times 32

    @property
    def kind(self) -> str:
        return kind_of(self.name)


@dataclass(frozen=True)
class Traffic:
    """One network, run once. `minimum`: {(phase, kind): bytes}."""

    network: str
    mode: str
    batch: int
    image_size: int
    dtype: str
    ours: Sequence[Row]
    eager: Sequence[Row]
    minimum: dict[tuple[str, str], int]

    @property
    def title(self) -> str:
        return (
            f"{self.network} {self.mode}, batch {self.batch}, {self.image_size}x{self.image_size}, "
            f"{self.dtype}, channels_last, emulated"
        )

    @property
    def summary(self) -> str:
        mine, theirs, least = total(self.ours), total(self.eager), sum(self.minimum.values())
        return f"{self.title}: ours moves {mine / theirs:.2f} of eager's bytes; {mine / least:.2f} of the minimum"

    def to_json(self) -> dict[str, Any]:
        lines = [vars(line) for line in by_kind(self)]
        return {
            **{n: getattr(self, n) for n in ("network", "mode", "batch", "image_size", "dtype")},
            "summary": self.summary,
            "bytes": {side: lines[-1][side] for side in ("ours", "eager", "minimum")},
            "kinds": lines[:-1],
            "ours": [vars(row) for row in summed(self.ours, by_layer=True)],
            "eager": [vars(row) for row in summed(self.eager, by_layer=True)],
        }


@dataclass(frozen=True)
class Line:
    """Bytes of one kind of work in one phase; of everything: phase "", kind "total"."""

    phase: str
    kind: str
    ours: int
    eager: int
    minimum: int


def by_kind(traffic: Traffic) -> list[Line]:
    """The kinds that there are, and the total."""
    lines = []
    for phase in (FORWARD, BACKWARD):
        for kind in KINDS:
            mine, theirs = (
                total(row for row in side if (row.phase, row.kind) == (phase, kind))
                for side in (traffic.ours, traffic.eager)
            )
            if mine or theirs:
                least = traffic.minimum.get((phase, kind), 0)
                lines.append(Line(phase, kind, mine, theirs, least))
    least = sum(traffic.minimum.values())
    return [*lines, Line("", TOTAL, total(traffic.ours), total(traffic.eager), least)]


def total(rows: Iterable[Row]) -> int:
    return sum(row.distinct for row in rows)


def summed(rows: Iterable[Row], by_layer: bool = False) -> list[Row]:
    """One row per phase and name (and layer), in order of appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row.phase, row.name, row.layer if by_layer else "")
        groups.setdefault(key, []).append(row)
    return [
        Row(
            name,
            phase,
            layer,
            sum(row.calls for row in group),
            total(group),
            _sum(row.asked for row in group),
            _sum(row.sectors for row in group),
        )
        for (phase, name, layer), group in groups.items()
    ]


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def measure_network(
    name: str, batch: int, image_size: int, dtype: torch.dtype, training: bool
) -> Traffic:
    """Runs the network fused on the emulator and plain on the CPU.

    Raises:
        ValueError: there is no such network.
        RuntimeError: the emulator is not built.
    """
    torch.manual_seed(0)
    fused = models.create_model(name).to(dtype)
    fused = fused.to(memory_format=torch.channels_last).train(training)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, image_size, image_size).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    return measure(name, fused, x)


def measure(name: str, fused: nn.Module, x: Tensor) -> Traffic:
    """Traffic of one call (training: of a step) of a fused module, in its present mode, on images [N, C, H, W]."""
    training = fused.training
    least = minimum(fused, x)
    plain = unfuse(fused)
    eager = operations(plain, x)
    with emulated(count=True) as emulation:

        def launches() -> list[dict[str, Any]]:
            found = emulation.launches()
            emulation.clear()
            return found

        ours = operations(fused, x, launches)
    for operation in ours:
        if kind_of(operation.name) == POOLING or operation.name in _MATRIX_PRODUCTS:
            key = (operation.phase, kind_of(operation.name))
            least[key] = least.get(key, 0) + operation.operand_bytes
    return Traffic(
        name,
        "training step" if training else "inference",
        x.shape[0],
        x.shape[2],
        str(x.dtype).removeprefix("torch."),
        [row for operation in ours for row in rows_of(operation)],
        [row for operation in eager for row in rows_of(operation)],
        least,
    )


def operations(
    module: nn.Module, x: Tensor, launches: Callable[[], list[dict[str, Any]]] = list
) -> list[Operation]:
    """What one call of the module does; in training mode with the backward pass from a random gradient."""
    recorder = Recorder(module, launches)
    with nullcontext() if module.training else torch.no_grad():
        with recorder:
            output = module(x)
        if module.training:
            gradient = torch.randn(output.shape).to(output.dtype)
            with recorder.backward_of(output), recorder:
                output.backward(gradient)
    return recorder.operations


def rows_of(operation: Operation) -> list[Row]:
    """A row per launch of ours, one for an operation of torch."""
    phase, layer = operation.phase, operation.layer
    if not operation.launches:
        return [Row(operation.name, phase, layer, 1, operation.operand_bytes)]
    rows = []
    for launch in operation.launches:
        counters = launch["counters"]
        rows.append(
            Row(
                launch["kernel"],
                phase,
                layer,
                1,
                counters["distinct_load_bytes"] + counters["distinct_store_bytes"],
                counters["global_load_bytes"] + counters["global_store_bytes"],
                _SECTOR * (counters["global_load_sectors"] + counters["global_store_sectors"]),
            )
        )
    return rows


def minimum(fused: nn.Module, x: Tensor) -> dict[tuple[str, str], int]:
    """Of the convolution units: one pass each at inference, in training those of the executor."""
    found: dict[tuple[str, str], int] = {}
    for unit in explain(fused, x).units:
        for step in unit.passes:
            phase = FORWARD if step.phase == FORWARD else BACKWARD
            key = (phase, kind_of(step.kernel))
            found[key] = found.get(key, 0) + step.bytes
    return found


def tables(traffic: Traffic, layers: bool = False) -> list[Table]:
    found = [_kind_table(traffic), _pass_table(traffic), _eager_table(traffic)]
    if layers:
        found.insert(1, _layer_table(traffic))
    return found


def _kind_table(traffic: Traffic) -> Table:
    rows = []
    for line in by_kind(traffic):
        mine, theirs, least = line.ours, line.eager, line.minimum
        rows.append(
            [
                Cell(f"{line.phase}: {line.kind}" if line.phase else line.kind),
                *(_mega(value or None) for value in (mine, theirs, least)),
                Cell(f"{mine / theirs:.2f}" if theirs else "-", BAD if mine > theirs else ""),
                Cell(f"{mine / least:.2f}" if least else "-"),
            ]
        )
    notes = [
        "MB, every byte that a kernel touches once; the minimum of a fused unit stands at its convolution, and is that "
        "of one kernel per unit which reads all of its input"
    ]
    header = ["", "ours", "eager", "minimum", "ours/eager", "ours/minimum"]
    return Table(f"traffic of {traffic.title}", header, rows, notes)


def _layer_table(traffic: Traffic) -> Table:
    names = list(dict.fromkeys(row.layer for row in (*traffic.eager, *traffic.ours)))
    rows = []
    for name in names:
        cells = [Cell(name or "(before the first layer)")]
        for phase in (FORWARD, BACKWARD):
            mine, theirs = (
                total(row for row in side if (row.phase, row.layer) == (phase, name))
                for side in (traffic.ours, traffic.eager)
            )
            cells += [_mega(mine or None), _mega(theirs or None)]
            cells.append(Cell(f"{mine / theirs:.2f}" if theirs else "-"))
        rows.append(cells)
    header = ["layer", "forward: ours", "eager", "ours/eager"]
    header += ["backward: ours", "eager", "ours/eager"]
    return Table("by layer", header, rows, ["MB; a pool belongs to the layer before it"])


def _pass_table(traffic: Traffic) -> Table:
    rows = [
        [
            Cell(f"{row.phase}: {row.name}"),
            Cell(str(row.calls)),
            *(_mega(value) for value in (row.asked, row.sectors, row.distinct)),
        ]
        for row in summed(traffic.ours)
    ]
    notes = ["MB; sectors: of 32 bytes that the warps' instructions touch, what goes to the caches"]
    return Table(
        "ours by kernel", ["", "launches", "asked for", "sectors", "distinct"], rows, notes
    )


def _eager_table(traffic: Traffic) -> Table:
    rows = [
        [Cell(f"{row.phase}: {row.name}"), Cell(str(row.calls)), _mega(row.distinct)]
        for row in summed(traffic.eager)
    ]
    return Table("eager by operation", ["", "calls", "MB"], rows)


def _mega(value: int | None) -> Cell:
    return Cell("-" if value is None else f"{value / _MEGA:.2f}")
