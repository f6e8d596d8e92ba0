"""Workloads for tests of the harness: candidates of known speed and behaviour on a fake GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.runner import Budget, Runner
from resnet_cuda.bench.timing import Effort
from resnet_cuda.bench.workload import Candidate, Result, Workload
from tests.bench.fake_cuda import FakeCudaDevice, FakeGpu

MS = 1e-3
PLAN = Plan(effort=Effort(seconds=0.05, min_rounds=5))


class Buffer:
    """Memory that is in use as long as something refers to it."""

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        self._gpu, self._size = gpu, size
        gpu.take(size)

    def __del__(self) -> None:
        self._gpu.allocated -= self._size


def candidate(
    gpu: FakeGpu,
    name: str,
    seconds: float = MS,
    *,
    value: float = 1.0,
    holds: int = 0,
    needs: int = 0,
    prepare: Callable[[], object] = lambda: None,
    run: Callable[[], object] = lambda: None,
    **options: Any,
) -> Candidate:
    """Takes `seconds`, returns `value`, holds and needs so many bytes; `prepare` and `run` are for mischief."""

    def make() -> Callable[[], object]:
        prepare()
        held = Buffer(gpu, holds)  # freed with the function, as a module's weights are

        def function(held: Buffer = held) -> torch.Tensor:
            run()
            with gpu.allocate(needs):
                gpu.launch(seconds)
            return torch.tensor(value)

        return function

    return Candidate(name, make, ours=name.startswith("resnet_cuda"), **options)


def same_values(outputs: dict[str, object]) -> dict[str, str]:
    """A check: every output is 1."""
    errors = {name: abs(float(value) - 1) for name, value in outputs.items()}  # type: ignore[arg-type]
    return {
        name: f"largest error {e:.3g}, 1e-3 allowed" for name, e in errors.items() if not e <= 1e-3
    }


def workload(candidates: Iterable[Candidate], name: str = "w", **options: Any) -> Workload:
    options = {"check": same_values, **options}
    return Workload("op", name, "inference", torch.float32, 10, 20, list(candidates), **options)


class Recorder:
    """A runner on a fake GPU, and what it said."""

    def __init__(self, gpu: FakeGpu, plan: Plan = PLAN, budget: Budget | None = None) -> None:
        self.gpu = gpu
        self.results: list[Result] = []
        self.notes: list[str] = []
        self.progress: list[tuple[str, int]] = []
        self.runner = Runner(
            FakeCudaDevice(gpu),
            plan,
            self.results.append,
            self.notes.append,
            budget,
            progress=lambda title, done: self.progress.append((title, done)),
        )

    def run(self, *workloads: Workload) -> dict[str, Result]:
        """By candidate; the last workload's where names repeat."""
        self.runner.run(workloads)
        return {r.candidate: r for r in self.results}


def statuses(rows: dict[str, Result]) -> dict[str, str]:
    return {name: row.status for name, row in rows.items()}
