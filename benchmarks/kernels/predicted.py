"""Tables of what is predicted for the planned passes, beside what was measured where there is a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from benchmarks.kernels.measured import MeasuredPass
from benchmarks.kernels.planned import PlannedPass
from benchmarks.kernels.prediction import Machine, Prediction
from resnet_cuda.bench.tables import Cell, Table, three

_HEADER = [
    *("pass", "times", "tile", "tiles", "of the busiest block", "even"),
    *("memory", "L2", "tensor", "shared", "epilogues", "predicted us", "waits for"),
]
_MEASURED = ["measured us", "over predicted"]


class PredictedPass(NamedTuple):
    """prediction: None of kernels that the model is not about."""

    planned: PlannedPass
    prediction: Prediction | None


def tables(
    found: Sequence[PredictedPass],
    machine: Machine,
    results: Mapping[tuple[str, str, str, str], MeasuredPass],
) -> Iterator[Table]:
    """One for each network and dtype, and the numbers of the model."""
    header = _HEADER + (_MEASURED if results else [])
    for name, dtype in dict.fromkeys((p.network, p.dtype) for p, _ in found):
        mine = [one for one in found if (one.planned.network, one.planned.dtype) == (name, dtype)]
        rows = [_row(one) + (_beside(one, results) if results else []) for one in mine]
        notes = [
            "us: what each rate alone would take; epilogues: of the busiest multiprocessor, on top of the longer of "
            "tensor and shared, unless a second block overlaps with them; predicted: the longest, and start and end",
            "even: slices of all blocks over those of as many busiest ones",
            _total(mine),
        ]
        yield Table(f"{name}, {dtype}, predicted for {machine.name}", header, rows, notes)
    numbers = [
        [
            Cell(name.replace("_", " ")),
            Cell(f"{figure.value:g}"),
            Cell(f"{figure.unit}; {figure.source}"),
        ]
        for name, figure in machine.figures()
    ]
    yield Table(f"what the model knows of {machine.name}", ["", "value", "unit; source"], numbers)


def _row(one: PredictedPass) -> list[Cell]:
    p, m = one
    cells = [f"{p.pass_name.removeprefix('conv_')} {p.workload}", str(p.count)]
    if m is None:
        return [Cell(text) for text in (*cells, *["-"] * (len(_HEADER) - 4), f"({p.kernel})", "-")]
    x, y, z = p.grid
    cells += ["x".join(map(str, p.tile[:2])), str(x * y * z), str(m.tiles), f"{m.evenness:.2f}"]
    cells += [three(us) for us in (m.memory, m.l2, m.tensor, m.shared, m.between, m.us)]
    return [Cell(text) for text in (*cells, m.limit)]


def _beside(
    one: PredictedPass, results: Mapping[tuple[str, str, str, str], MeasuredPass]
) -> list[Cell]:
    was = results.get((one.planned.network, *one.planned.key))
    if was is None or was.us is None:
        return [Cell("not measured"), Cell("-")]
    return [
        Cell(three(was.us)),
        Cell(f"{was.us / one.prediction.us:.2f}" if one.prediction else "-"),
    ]


def _total(found: Sequence[PredictedPass]) -> str:
    known = [(p.count, m.us, p.floor_us) for p, m in found if m is not None]
    us, floor = (
        sum(count * t for count, *times in known for t in times[i : i + 1]) for i in (0, 1)
    )
    return (
        f"all listed passes that have a prediction: {us / 1e3:.2f} ms, {us / floor:.2f} times their floors"
        if known
        else "no pass has a prediction: the model is of the sm90 kernels"
    )
