"""What may go wrong around a hardware run: signals, a full disk, stages that print without end, no git, no time."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hardware import affected, measure
from benchmarks.hardware.child import Context
from benchmarks.hardware.conductor import child_environment
from benchmarks.hardware.process import Process
from benchmarks.hardware.protocol import RESTART
from resnet_cuda.bench import plan
from resnet_cuda.bench.ceilings import Ceilings
from resnet_cuda.bench.device import CpuDevice, DryRunDevice
from resnet_cuda.bench.levels import model
from resnet_cuda.bench.report import Report, load
from resnet_cuda.bench.workload import Candidate
from tests.bench.candidates import workload

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, str(ROOT / "benchmarks/hardware_run.py"), "--dry-run"]


def test_a_killed_run_leaves_a_report_and_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--out", str(tmp_path), "--only", "safety"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("build"):
            break
    children: list[str] = []
    while not children:
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.communicate()
    data = load(tmp_path / "report.json")
    assert not data["finished"] and data["environment"]["kind"] == "dry-run"
    for _ in range(50):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            return
        time.sleep(0.1)
    pytest.fail(f"of the stage's processes {children} there is one left")


def test_a_full_disk_is_told_and_the_findings_are_on_the_terminal(tmp_path: Path) -> None:
    def no_file_above_500_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))

    done = subprocess.run(
        [*COMMAND, "--out", str(tmp_path), "--minutes", "0.01", "--only", "probes"],
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=no_file_above_500_bytes,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "report.json is not complete, it could not be written: File too large" in done.stdout
    assert "probes: skipped no time left" in done.stdout
    assert not done.stderr
    load(tmp_path / "report.json")  # as it was when there was room


def test_checks_assert_and_import_the_checkout_whatever_the_caller_s_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for name in ("benchmarks", "tests"):  # some installed packages bring such folders along
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('another package')")
    monkeypatch.setenv("RNC_TEST_LIB_DIR", "libraries")
    environment = child_environment("dry-run", tmp_path)
    assert environment["RNC_TEST_LIB_DIR"] == str(Path.cwd() / "libraries")
    script = "import benchmarks.hardware.protocol, tests.device_library.library; assert False, 'asserted'"
    process = Process([sys.executable, "-c", script], tmp_path, environment)
    lines = []
    while line := process.line(20):
        lines.append(line)
    assert process.end() == 1 and "asserted" in lines[-1], lines


def test_a_process_that_prints_without_end_is_stopped_and_fills_no_memory() -> None:
    process = Process([sys.executable, "-c", "while True: print('x' * 10_000)"], ROOT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    end = time.monotonic() + 1.0
    lines = 0
    with pytest.raises(TimeoutError):
        while process.line(end - time.monotonic()):
            lines += 1
            time.sleep(0.001)
    assert lines > 10 and time.monotonic() - end < 5
    assert process.end(grace=0.1) == -signal.SIGKILL
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 * 1024, f"{grown / 1024:.0f} MiB of waiting lines"


def test_a_line_without_end_comes_in_pieces() -> None:
    process = Process([sys.executable, "-c", "print('x' * 10_000_000)"], ROOT)
    lengths = []
    while line := process.line(20):
        lengths.append(len(line))
    assert sum(lengths) == 10_000_001 and max(lengths) <= 2**22
    assert process.end() == 0


def test_a_process_that_no_signal_ends_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = Process([sys.executable, "-c", "pass"], ROOT)
    assert process.line(20) is None
    popen = process._popen

    def wait(timeout: float) -> int:
        raise subprocess.TimeoutExpired("it hangs in the driver", timeout)

    monkeypatch.setattr(popen, "wait", wait)
    assert process.end() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("path", "why"),
    [(None, "not a git repository"), ("", "git cannot be run (No such file or directory)")],
)
def test_since_without_git_says_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str | None, why: str
) -> None:
    monkeypatch.setattr(affected, "ROOT", tmp_path)
    if path is not None:
        monkeypatch.setenv("PATH", path)
    with pytest.raises(ValueError) as caught:
        affected.since("main")
    text = str(caught.value)
    assert text.startswith("--since is 'main': ") and why in text and "--kernels" in text


def test_a_lost_gpu_ends_the_process_and_the_next_one_goes_on_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    def failing() -> object:
        device.synchronize = lost  # type: ignore[method-assign]
        return lost

    device = CpuDevice()
    makers = {"w0": lambda: float, "w1": failing, "w2": lambda: float}
    made = [workload([Candidate("ours", m)], name, check=None) for name, m in makers.items()]
    monkeypatch.setattr(measure, "workloads", lambda *_: iter(made))
    report = Report(None, "hardware_run", {})

    def status(skip: int) -> int:
        context = Context("kernels", "dry-run", skip=skip, ceilings=Ceilings(1.0, {}))
        return measure.compare(measure.MEASUREMENTS["kernels"], device, context, report)

    assert status(skip=0) == RESTART
    found = [(row["workload"], row["status"]) for row in report.results]
    assert found == [("w0", "ok"), ("w1", "failed")], "what is behind belongs to the next process"
    device = CpuDevice()
    assert status(skip=2) == 0 and report.results[-1]["workload"] == "w2"


def test_every_comparison_of_networks_belongs_to_one_stage() -> None:
    device = DryRunDevice()
    few = {"networks": ("resnet18",), "image_size": 32, "batch": 2}

    def compared(changes: dict[str, object]) -> list[tuple[str, tuple[str, ...]]]:
        given = replace(plan.GPU, **{**changes, **few})  # type: ignore[arg-type]
        return [(w.title, tuple(c.name for c in w.candidates)) for w in made(given)]

    def made(given: plan.Plan) -> list[model.Workload]:
        return list(model.workloads(device, given))

    found = []
    for stage in ("models", "sweep", "compile", "max_autotune"):
        measurement = measure.MEASUREMENTS[stage]
        given = replace(plan.GPU, **{**measurement.changes, **few})
        mine = [w for w in made(given) if measurement.wants(w)]
        assert mine, stage
        found += [(w.title, tuple(c.name for c in w.candidates)) for w in mine]
    assert sorted(found) == sorted(compared({})), "nothing is left out, nothing measured twice"
