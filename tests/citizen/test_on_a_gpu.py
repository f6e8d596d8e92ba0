"""What only a GPU can show, on one where there is one: the checks of a hardware run's stage `safety`, by property."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from benchmarks.hardware import safety
from benchmarks.hardware.child import Context
from benchmarks.hardware.gpu import DryGpu, Gpu
from benchmarks.hardware.protocol import FAILED, OK, Check, run_check
from resnet_cuda import _raw
from resnet_cuda.bench.device import DryRunDevice, open_device

# Names of checks up to the colon.
PROPERTIES = (
    "current stream",  # a side stream, kept busy by a kernel that sleeps
    "another device",  # the second GPU while the first is current
    "graph",  # captured, and replayed on other values
    "no host synchronisation",
    "no allocation growth",
    "autograd in another thread",
    "same bits again",
    "after an error",
    "reduce-overhead",
)


def why_not() -> str:
    if not torch.cuda.is_available():
        return "there is no GPU"
    if not _raw.build_info().get("cuda_compiled"):
        return "there is a GPU, but the extension was built without nvcc"
    return ""


def named(checks: Iterator[Check]) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in checks:
        found.setdefault(check.name.partition(":")[0], []).append(check)
    return found


def test_every_property_of_the_stage_is_tested_here() -> None:
    dry = named(safety.checks(Context("safety", "dry-run"), DryGpu(DryRunDevice())))
    assert set(dry) == set(PROPERTIES)


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "there is one")
@pytest.mark.parametrize("name", PROPERTIES)
def test_on_a_gpu(name: str) -> None:
    context = Context("safety", "cuda")
    gpu = Gpu(open_device("cuda"))
    with context.backend():
        rows = [run_check(check) for check in named(safety.checks(context, gpu))[name]]
    wrong = [f"{row.name}: {row.message}" for row in rows if row.status == FAILED]
    assert not wrong, wrong
    if not any(row.status == OK for row in rows):
        pytest.skip("; ".join(sorted({row.message for row in rows})))


def test_a_hardware_run_makes_these_checks() -> None:
    """The stage in a process of its own, as a run starts it, for one op and without a GPU."""
    command = [sys.executable, "-m", "benchmarks.hardware.child", "safety", "safety"]
    done = subprocess.run(
        [*command, "--device", "dry-run", "--ops", "add_relu"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": "."},
    )
    of_ops = [p for p in PROPERTIES if p != "reduce-overhead"]  # that one is of a block
    missing = [p for p in of_ops if f'"{p}: add_relu"' not in done.stdout]
    assert not missing, f"{missing} were not among\n{done.stdout}"
