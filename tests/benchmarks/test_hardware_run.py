"""The command itself: what it accepts, what it writes, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import hardware_run
from benchmarks.hardware import build, device_facts
from benchmarks.hardware.affected import Selection, by_names
from benchmarks.hardware.child import MODULES
from benchmarks.hardware.measure import MEASUREMENTS
from benchmarks.hardware.scrub import Scrubber
from benchmarks.hardware.stages import STAGES
from resnet_cuda.bench.report import load

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks/hardware_run.py"), *arguments]


def run(
    folder: Path, *arguments: str, timeout: float = 150, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def test_a_dry_run_does_all_that_the_command_does_on_a_gpu(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", OUT="found", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in STAGES:
        assert any(line.split()[:2] == [stage.name, "ok"] for line in done.stdout.splitlines()), (
            f"{stage.name} is not ok:\n{done.stdout}"
        )
    assert "Correctness held." in done.stdout
    files = sorted(path.name for path in (tmp_path / "found").iterdir())
    texts, pictures = files[:3], files[3:]
    assert texts == ["log.txt", "report.json", "report.md"]
    assert pictures == ["roofline.png", "speedup.png", "sweep.png", "training_step.png"]
    data = load(tmp_path / "found/report.json")
    assert data["kind"] == "hardware_run" and data["finished"] and data["stopped_by"] is None
    assert data["environment"]["kind"] == "dry-run" and data["environment"]["commit"]
    assert data["environment"]["build"]["torch_abi"]
    assert data["ceilings"]["bandwidth"] > 0
    checks = Counter(check["stage"] for check in data["correctness"])
    assert data["probes"] == {"emulated": {"ok": checks["probes"]}}
    assert checks["reference_kernels"] == 30
    text = "".join((tmp_path / "found" / name).read_text() for name in texts)
    for private in (str(ROOT), str(tmp_path), os.path.expanduser("~") + "/"):
        assert private not in text, f"the report names {private}"


def test_an_interrupted_run_keeps_its_report_and_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("--dry-run", "--out", str(tmp_path), "--only", "probes", "models"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("probes"):
            break
    time.sleep(3)  # into the next stage
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, "not all was checked"
    data = load(tmp_path / "report.json")
    assert data["stopped_by"] == "SIGTERM" and not data["finished"]
    assert {e["name"]: e["status"] for e in data["stages"]}["models"] == "cut off"
    assert data["probes"]["emulated"]["ok"] > 100
    assert "cut off by SIGTERM" in (tmp_path / "report.md").read_text()
    for child in children:
        assert not Path(f"/proc/{child}").exists(), f"process {child} is still there"
    assert "models: cut off" in output


def test_without_time_the_remaining_stages_are_skipped(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", "--minutes", "0.01", "--only", "probes", "--out", "found")
    assert done.returncode == 1
    data = load(tmp_path / "found/report.json")
    assert data["stopped_by"] == "the time limit"
    assert data["stages"][-1] == {
        "name": "probes",
        "status": "skipped",
        "seconds": 0.0,
        "message": "no time left",
    }


def test_without_a_gpu_the_exit_status_is_2_and_a_report_says_what_is_needed(
    tmp_path: Path,
) -> None:
    done = run(tmp_path, "--only", "probes", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert "No usable GPU" in done.stdout
    data = load(tmp_path / "hardware_report/report.json")
    assert "compute capability 8.0" in data["unusable"]
    assert {e["status"] for e in data["stages"][1:]} == {"skipped"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes is '0'; accepted: numbers above 0"),
        (["--minutes", "nan"], "--minutes is 'nan'; accepted: numbers above 0"),
        (["--minutes", "eight"], "--minutes is 'eight'; accepted: numbers above 0"),
        (["--only", "everything"], "invalid choice: 'everything'"),
        (
            ["--kernels", "conv"],
            "--kernels is 'conv', which is no kernel and no op; accepted: add_relu",
        ),
        (["--kernels", "add_relu", "--since", "HEAD"], "accepted: one of them"),
        (
            ["--since", "no-such-revision"],
            "--since is 'no-such-revision': git knows no such revision; accepted: a revision",
        ),
        (["--dry-run", "--out", "/proc/nowhere"], "--out is /proc/nowhere"),
    ],
)
def test_bad_arguments_end_with_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = hardware_run.main(arguments)
    except SystemExit as error:
        code = int(str(error.code))
    finally:
        if sys.modules.get("resnet_cuda._C", ...) is None:
            del sys.modules["resnet_cuda._C"]
    assert code == 2
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_nothing_changed_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        hardware_run.affected, "since", lambda ref: (Selection(stages=frozenset()), [])
    )
    assert hardware_run.main(["--since", "HEAD"]) == 0
    assert "nothing that a GPU runs has changed since HEAD" in capsys.readouterr().out


def test_the_list_names_stages_and_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert hardware_run.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(stage.name in out for stage in STAGES)
    assert "conv_wgrad" in out and "max_pool2d" in out


def test_a_choice_of_kernels_limits_the_stages() -> None:
    names = [stage.name for stage in hardware_run.chosen(by_names(["add_relu"]), None)]
    assert names[:2] == ["device", "build"]
    assert {"correctness", "safety", "kernels", "ops"} <= set(names)
    assert not {"models", "compile"} & set(names)
    only = hardware_run.chosen(Selection(), ["safety"])
    assert [stage.name for stage in only] == ["device", "build", "safety"]


def test_every_stage_has_a_module_that_knows_it() -> None:
    for stage in STAGES:
        assert stage.command[-1] in MODULES, stage.name
        if stage.command[-1] == "measure":
            assert stage.name in MEASUREMENTS or stage.name == "training_step", stage.name


# On the day, Python may be another one: `_host` exists for one version only. And nobody installed anything.
_BARE = """
import sys
for name in ("resnet_cuda._host", "rich", "matplotlib", "timm", "torchvision", "pytest", "triton"):
    sys.modules[name] = None
sys.argv[1:] = [*sys.argv[1:], "--device", "dry-run", "--ops", "add_relu", "bn_relu", "--passes", "add_relu_forward"]
from benchmarks.hardware.child import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("module", "stage"),
    [
        ("correctness", "correctness"),
        ("safety", "safety"),
        ("measure", "kernels"),
    ],
)
def test_kernels_are_checked_and_measured_with_nothing_but_torch(module: str, stage: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _BARE, module, stage],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert '"status": "ok"' in done.stdout and '"status": "failed"' not in done.stdout


def test_a_commit_without_git_comes_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_facts, "COMMIT_FILE", tmp_path / "COMMIT")
    assert device_facts.with_commit({"commit": "abc"})["commit"] == "abc"
    assert device_facts.with_commit({"commit": None})["commit"] == "unknown"
    (tmp_path / "COMMIT").write_text("1234\n")
    assert device_facts.with_commit({"commit": None})["commit"] == "1234"


def test_what_does_not_load_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing, about = build.look("dry-run")
    assert missing == {"extension": "", "libraries": ""} and about["torch_abi"]
    (tmp_path / "libfirst_kernel.so").write_text("no library")
    monkeypatch.setenv("RNC_TEST_LIB_DIR", str(tmp_path))
    libraries = build.look("dry-run")[0]["libraries"]
    assert libraries.startswith("not in RNC_TEST_LIB_DIR or not loadable: probes_ampere, ")
    assert "first_kernel (" in libraries
    crash = build._answer("import os; os.abort()", "dry-run")
    assert crash == {"missing": "loading it was ended by SIGABRT: "}


def test_a_failed_build_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(build, "ROOT", tmp_path)
    script = tmp_path / "setup.py"
    script.write_text("print('conv.cu(3): error: no such thing'); raise SystemExit(3)")
    assert build.build(30) == "the build ended with status 3: conv.cu(3): error: no such thing"
    script.write_text("import time; time.sleep(60)")
    assert build.build(0.5) == "the build was stopped after 0 s"
    script.write_text("")
    assert build.build(30) == "built here"
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert build.cannot_build(dry=True) == "not built: no cmake, ninja, c++"


def test_paths_are_scrubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    scrub = Scrubber(Path("/home/somebody/resnet_cuda"), [Path("/tmp/run_x")])
    given = {
        "/home/somebody/resnet_cuda/csrc/x.cu": ["/home/somebody/.cache/a", "/tmp/run_x/triton"],
        "other": "in /opt/torch/lib/python3.12/x.py: 3x3/2, 8/16, https://example.org/a/b/c",
    }
    assert json.loads(json.dumps(scrub.value(given))) == {
        "./csrc/x.cu": ["~/.cache/a", "$TMP/triton"],
        "other": "in .../x.py: 3x3/2, 8/16, https://example.org/a/b/c",
    }
