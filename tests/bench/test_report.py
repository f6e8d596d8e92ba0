"""The report's file: always whole, never far behind, and plain."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_cuda.bench import report as report_module
from resnet_cuda.bench.report import Report, Stopped, load, plain
from resnet_cuda.bench.workload import Result

ROOT = Path(__file__).parents[2]


def row(number: int = 0) -> Result:
    return Result("op", f"w{number}", "inference", "float32", "resnet_cuda", True, "ok")


def file(folder: Path) -> dict:
    return load(folder / "report.json")


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    heard: list[tuple[str, object]] = []
    report = Report(tmp_path, "bench", {"kind": "cpu"}, lambda *what: heard.append(what))
    assert file(tmp_path)["finished"] is False
    report.add(row())
    report.add({"any": "row"})
    report.note("smaller")
    report.set("ceilings", {"bandwidth": 1.5})
    report.finish()
    data = file(tmp_path)
    assert data == report.data
    assert data["results"] == [row().to_json(), {"any": "row"}]
    assert data["ceilings"] == {"bandwidth": 1.5} and data["notes"] == ["smaller"]
    assert data["finished"] is True and data["stopped_by"] is None
    assert [what for what, _ in heard] == ["result", "result", "note", "section"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.json"]


def test_a_report_without_a_folder_writes_nothing() -> None:
    report = Report(None, "bench", {})
    report.add(row())
    report.finish()
    assert len(report.results) == 1


def test_saving_many_rows_encodes_and_writes_each_a_few_times_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write_whole = report_module.write_whole

    def count(path: Path, text: str) -> None:
        written.append(len(text))
        write_whole(path, text)

    monkeypatch.setattr(report_module, "write_whole", count)
    report = Report(tmp_path, "bench", {})
    start = time.monotonic()
    for i in range(3000):
        report.add(row(i))
    seconds = time.monotonic() - start
    report.finish()
    assert len(file(tmp_path)["results"]) == 3000
    assert len(written) <= 4 + seconds, f"{len(written)} saves in {seconds:.1f} s"


def test_what_is_added_is_in_the_file_a_moment_later_though_nothing_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_module, "_SECONDS_BETWEEN_SAVES", 0.05)
    report = Report(tmp_path, "bench", {})
    report.add(row(0))
    report.add(row(1))
    deadline = time.monotonic() + 10
    while len(file(tmp_path)["results"]) < 2:
        assert time.monotonic() < deadline, "the second row waits for a third one"
        time.sleep(0.01)


def test_a_file_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    report = Report(tmp_path, "bench", {})
    for i in range(200):
        report.add(row(i))
        report.save()
        assert len(file(tmp_path)["results"]) == i + 1


RUN = """
import sys, time
from pathlib import Path
from resnet_cuda.bench.report import Report
from resnet_cuda.bench.workload import Result
report = Report(Path(sys.argv[1]), "bench", {})
with report.recording():
    for i in range(3):
        report.add(Result("op", f"w{i}", "inference", "float32", "resnet_cuda", True, "ok"))
    print("added", flush=True)
    time.sleep(60)
"""


@pytest.mark.usefixtures("signals_arrive")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_run_that_is_cut_off_leaves_its_results(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdout and run.stdout.readline() == "added\n"
        if name == "SIGKILL":
            time.sleep(1.5)  # it may lose its last second
        run.send_signal(getattr(signal, name))
        assert run.wait(30) != 0
    data = file(tmp_path)
    assert len(data["results"]) == 3 and data["finished"] is False
    assert data["stopped_by"] == (None if name == "SIGKILL" else name)


def test_recording_says_what_ended_the_run() -> None:
    report = Report(None, "bench", {})
    handler = signal.getsignal(signal.SIGTERM)
    for error, why in ((Stopped("SIGTERM"), "SIGTERM"), (ValueError("no"), "ValueError: no")):
        with pytest.raises(type(error)), report.recording():
            raise error
        assert report.data["stopped_by"] == why and not report.data["finished"]
    with report.recording():
        pass
    assert report.data["finished"] and report.data["stopped_by"] is None
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    report = Report(tmp_path, "bench", {})
    with monkeypatch.context() as patch:
        patch.setattr(report_module, "write_whole", full)
        report.add(row())
        report.save()
        assert report.unsaved == "No space left on device"
        with pytest.raises(OSError, match="No space"):
            Report(
                tmp_path / "other", "bench", {}
            )  # before anything is measured it can be put right
    report.save()
    assert not report.unsaved and len(file(tmp_path)["results"]) == 1


def test_half_a_file_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str, encoding: str) -> None:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        report_module.write_whole(tmp_path / "report.md", "text")
    assert not list(tmp_path.iterdir())


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Report(tmp_path, "bench", {}).recording():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert file(tmp_path)["finished"]


def test_values_become_plain_json_without_paths() -> None:
    value = {
        "nan": float("nan"),
        "infinite": [float("inf"), 1.5],
        "numpy": np.float32(2.5),
        "torch": torch.tensor(3),
        "dtype": torch.float32,
        1: (True, None),
        "message": "cannot open /opt/some/lib/x.so: /usr/lib/libcuda.so.1: no such file",
        "shape": "n256-64x56x56 1/2 https://example.org/a/b/c",
    }
    assert plain(value) == {
        "nan": None,
        "infinite": [None, 1.5],
        "numpy": 2.5,
        "torch": 3,
        "dtype": "torch.float32",
        "1": [True, None],
        "message": "cannot open x.so: libcuda.so.1: no such file",
        "shape": "n256-64x56x56 1/2 https://example.org/a/b/c",
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 99}', "schema is 99; accepted: 1"),
        ("[1]", "schema is 'list'; accepted: 1"),
        ("{", "is not JSON"),
    ],
)
def test_a_file_that_is_no_report_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load(path)
