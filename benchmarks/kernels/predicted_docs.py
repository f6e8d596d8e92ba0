"""The tables of docs/kernels.md: of the passes that ResNet-50's training makes of each layer, and the gates."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.kernels import gates, planned, predicted
from benchmarks.kernels.predicted import PredictedPass
from benchmarks.kernels.prediction import MACHINES, of_workload, plan_of
from resnet_cuda.bench.device import open_device
from resnet_cuda.bench.markdown_text import table as markdown_table
from resnet_cuda.bench.plan import GPU
from resnet_cuda.bench.workload import Workload
from resnet_cuda.explain import H200

DOCS = Path(__file__).resolve().parents[2] / "docs/kernels.md"
BEGIN = "<!-- written by python -m benchmarks.kernels --predict --docs -->"
END = "<!-- end -->"


def write_docs(path: Path) -> None:
    path.write_text(with_tables(path.read_text()))


def with_tables(text: str) -> str:
    """The text with new tables between the marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{_tables()}\n{END}{after}"


def _tables() -> str:
    device = open_device("dry-run")
    lines: list[str] = []
    shown = [
        gates.table(machine, gates.predicted(device, machine), {}) for machine in MACHINES.values()
    ]
    machine = MACHINES[H200.name]
    found = [
        PredictedPass(planned.planned("resnet50", workload, conv, H200, tf32=True), prediction)
        for dtype in (torch.bfloat16, torch.float32)
        for workload, conv in planned.passes(device, "resnet50", dtype, GPU.batch, None)
        if _is_of_training(workload)
        and (prediction := of_workload(workload, conv, plan_of(workload, conv, True), machine))
    ]
    shown += [*predicted.tables(found, machine, {})]
    for one in shown:
        lines += [f"### {one.title}", "", *markdown_table(one), ""]
        lines += [f"- {note}" for note in one.notes] + [""] * bool(one.notes)
    return "\n".join(lines)


def _is_of_training(workload: Workload) -> bool:
    """Without those on load, which are the same layers again."""
    name = workload.name
    return (
        name.endswith("statistics")
        or workload.pass_name == "conv_dgrad"
        or (workload.pass_name == "conv_wgrad" and not name.endswith("on load"))
    )
