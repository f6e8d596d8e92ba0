"""docs/performance.md and docs/hardware-status.md say what the reports say, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import performance
from benchmarks.performance import Repository, add, main, slug
from benchmarks.performance_text import BEGIN, END, KERNELS_OF_OPS, hardware_status, runs
from tests.bench import made_up

CPU = {"kind": "cpu", "name": "Intel(R) Xeon(R) CPU @ 2.50GHz", "commit": "c" * 40}
GPU = {"kind": "cuda", "name": "NVIDIA H200", "commit": "a" * 40}
TABLE = f"""# Status

{BEGIN}

| kernel | checked under emulation | compiled | run on a GPU |
|---|---|---|---|
| conv_fprop (im2col) | yes | sm_80 | not yet |
| conv_dgrad | yes | sm_80 | not yet |
| add_relu_forward, add_relu_backward | yes | sm_80 | not yet |
| reference kernels: ampere_gemm | yes | sm_80 | not yet |
| first_kernel (an example) | yes | sm_90a | not yet |
| probes: 167 | yes | sm_80 | not yet |
| binding: current stream | - | - | not yet |

{END}

More text.
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "hardware-status.md").write_text(TABLE)
    return Repository(tmp_path)


def keep(repository: Repository, environment: dict[str, Any], **sections: Any) -> Path:
    data = {**made_up.full(), "environment": environment, **sections}
    source = repository.root / "run"
    source.mkdir(exist_ok=True)
    (source / "report.json").write_text(json.dumps(data))
    (source / "report.md").write_text("# the summary\n")
    (source / "roofline.png").write_bytes(b"\x89PNG")
    (source / "log.txt").write_text("not kept")
    return add(source, repository)


def column(document: str) -> dict[str, str]:
    """{first word of a row: its last cell}"""
    rows = [line for line in document.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]
    return {row[0].split()[0].rstrip(",:"): row[-1] for row in cells}


def test_the_documents_are_what_the_reports_say() -> None:
    wanted = Repository().documents()
    found = performance.differences(wanted, performance.ROOT)
    assert not found, "run python -m benchmarks.performance:\n" + "\n".join(found)


def test_every_kernel_of_an_op_has_its_row() -> None:
    text = (performance.ROOT / "docs" / "hardware-status.md").read_text()
    kernels = {kernel for names in KERNELS_OF_OPS.values() for kernel in names.split()}
    missing = {kernel for kernel in kernels if kernel not in text}
    assert not missing, f"give {missing} a row in docs/hardware-status.md"


def test_without_a_report_nothing_was_run(repository: Repository) -> None:
    assert main([], repository) == 0
    text = (repository.root / "docs" / "performance.md").read_text()
    assert "Not run: there is no report of a GPU." in text
    assert not any(character.isdigit() for line in text.splitlines()[3:] for character in line)
    assert (repository.root / "docs" / "hardware-status.md").read_text() == TABLE


def test_every_table_names_its_report(repository: Repository) -> None:
    keep(repository, GPU)
    assert main([], repository) == 0
    text = (repository.root / "docs" / "performance.md").read_text()
    place = "benchmarks/results/nvidia-h200/aaaaaaaaaaaa"
    assert "Not run" not in text
    for part in text.split("\n### ")[1:]:
        assert f"](../{place}/report.md)" in part, f"no report beside: {part[:60]}"
    for words in ("**slower**", "0.50x", "2026-01-02", "1.30 ms", "1.25x", "strange"):
        assert words in text


def test_the_gpu_comes_first_and_the_newest_report_counts(repository: Repository) -> None:
    keep(repository, CPU, started="2026-03-01 00:00:00 UTC")
    old = {**GPU, "commit": "b" * 40}
    keep(repository, old, started="2026-01-01 00:00:00 UTC")
    newest = made_up.layers()
    keep(repository, GPU, started="2026-02-01 00:00:00 UTC", results=newest)
    main([], repository)
    text = (repository.root / "docs" / "performance.md").read_text()
    assert text.index("## NVIDIA H200") < text.index("## Intel")
    gpu = text[text.index("## NVIDIA H200") : text.index("## Intel")]
    kernel = gpu[gpu.index("### Kernel") :].split("\n### ")[0]
    assert "a" * 12 in kernel and "b" * 12 not in kernel
    model = gpu[gpu.index("### Model") :].split("\n### ")[0]
    assert "b" * 12 in model, "the newest report has no models: those of the one before stay"


def test_pictures_that_were_kept_are_shown(repository: Repository) -> None:
    place = keep(repository, CPU)
    main([], repository)
    text = (repository.root / "docs" / "performance.md").read_text()
    shown = re.findall(r"^!\[.*\]\((.*)\)$", text, flags=re.M)
    assert [(repository.root / "docs" / path).resolve() for path in shown] == [
        (place / "roofline.png").resolve()
    ], "this report has no other"


PLAN = {
    "levels": ["op"],
    "networks": ["resnet18"],
    "batch": 2,
    "image_size": 112,
    "first_layers": None,
    "only": [],
}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            {"plans": [{**PLAN, "first_layers": 3}]},
            "**quick: the first 3 layers of each kind only**",
        ),
        ({"plans": [{**PLAN, "only": ["conv"]}]}, "**a selection of workloads**"),
        ({"plans": [PLAN], "finished": False, "stopped_by": "SIGTERM"}, "**cut off by SIGTERM**"),
    ],
)
def test_a_quick_report_says_so_and_does_not_replace_a_complete_one(
    repository: Repository, sections: dict[str, Any], said: str
) -> None:
    partial = {**CPU, "commit": "d" * 40}
    keep(repository, partial, started="2026-03-01 00:00:00 UTC", **sections)
    main([], repository)
    path = repository.root / "docs" / "performance.md"
    assert "resnet18, n2, 112 pixels; 5 rounds; " + said in path.read_text()
    assert f"{'d' * 12}/report.md): resnet18" in path.read_text(), "better than none"
    keep(repository, CPU, started="2026-01-01 00:00:00 UTC", plans=[PLAN])
    main([], repository)
    levels = [line for line in path.read_text().splitlines() if line.startswith("From [")]
    assert levels and all("c" * 12 in line and said not in line for line in levels)


def test_status_of_kernels_comes_from_checks_on_gpus(repository: Repository) -> None:
    correctness = [
        {"name": "fp64 rule, float32: conv_bn_relu 3x3, training", "status": "ok"},
        {"name": "fp64 rule, bfloat16: add_relu", "status": "failed", "message": "off"},
        {"name": "ampere_gemm_bfloat16 1x8x8", "status": "ok"},
        {"name": "first kernel", "status": "skipped"},
    ]
    keep(repository, GPU, correctness=correctness)
    main([], repository)
    found = column((repository.root / "docs" / "hardware-status.md").read_text())
    assert "2026-01-02, NVIDIA H200, aaaaaaaaaaaa" in found["conv_fprop"]
    assert "4 ok" in found["conv_fprop"], "one check of the op, three kernel benchmarks"
    assert "1 ok" in found["conv_dgrad"]
    assert "**1 failed**" in found["add_relu_forward"]
    assert "1 ok" in found["reference"]
    assert found["first_kernel"] == "not yet", "a skipped check is no check"
    assert "**166 ok, 1 wrong**" in found["probes"]
    assert "1 ok" in found["binding"]


def test_a_cpu_or_a_cut_off_run_does_not_claim_a_gpu(repository: Repository) -> None:
    keep(repository, CPU)
    keep(repository, GPU, results=[], correctness=[], safety=[], probes={}, stopped_by="SIGTERM")
    main([], repository)
    assert (repository.root / "docs" / "hardware-status.md").read_text() == TABLE


def test_writing_twice_changes_nothing(repository: Repository) -> None:
    keep(repository, GPU)
    main([], repository)
    before = {p: p.read_text() for p in (repository.root / "docs").iterdir()}
    assert main(["--check"], repository) == 0
    main([], repository)
    assert before == {p: p.read_text() for p in (repository.root / "docs").iterdir()}


def test_check_shows_the_difference_and_writes_nothing(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    main([], repository)
    path = repository.root / "docs" / "performance.md"
    path.write_text(path.read_text() + "Ours is 1000 times as fast.\n")
    assert main(["--check"], repository) == 1
    assert "-Ours is 1000 times as fast." in capsys.readouterr().out
    assert "1000 times" in path.read_text()


def test_a_report_is_kept_by_device_and_commit(repository: Repository) -> None:
    place = keep(repository, CPU)
    assert place == repository.results / "intel-xeon-cpu-2.50ghz" / ("c" * 12)
    assert sorted(p.name for p in place.iterdir()) == ["report.json", "report.md", "roofline.png"]
    modified = keep(repository, {**CPU, "dirty": True})
    assert modified.name == "c" * 12 + "-modified"


def test_add_regenerates_the_documents(
    repository: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(repository, GPU)
    assert main(["--add", str(repository.root / "run")], repository) == 0
    assert "benchmarks/results/nvidia-h200/aaaaaaaaaaaa" in capsys.readouterr().out
    assert "NVIDIA H200" in (repository.root / "docs" / "performance.md").read_text()


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"kind": "dry-run", "name": "the emulator"}, "a dry run measures nothing"),
        ({"kind": "cuda", "name": "NVIDIA H200", "commit": None}, "--commit"),
    ],
)
def test_what_cannot_be_kept_is_refused(
    repository: Repository,
    environment: dict[str, Any],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ValueError, match=said):
        keep(repository, environment)
    assert main(["--add", str(repository.root / "run")], repository) == 2
    assert said in capsys.readouterr().err


def test_a_commit_can_be_given_for_a_machine_without_a_checkout(repository: Repository) -> None:
    with pytest.raises(ValueError):
        keep(repository, {**GPU, "commit": None})
    arguments = ["--add", str(repository.root / "run"), "--commit", "d" * 40]
    assert main(arguments, repository) == 0
    assert (repository.results / "nvidia-h200" / ("d" * 12) / "report.json").exists()


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="between"):
        hardware_status("# Status\n", [])


@pytest.mark.parametrize(
    ("check", "kernel", "expected"),
    [
        ("fp64 rule, float32: conv_bn_relu 3x3", "conv_wgrad", True),
        ("fp64 rule, float32: add_relu", "add_relu_backward", True),
        ("fp64 rule, float32: add_relu", "conv_fprop", False),
        ("hopper_conv_fprop_bfloat16 2x9x11", "hopper_conv_fprop", True),
        ("hopper_conv_fprop_bfloat16 2x9x11", "conv_fprop", False),
        ("first kernel", "first_kernel", True),
    ],
)
def test_checks_are_traced_to_kernels(check: str, kernel: str, expected: bool) -> None:
    assert runs(check, kernel) is expected


def test_slugs_are_plain() -> None:
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("AMD EPYC 9R14 96-Core Processor") == "amd-epyc-9r14-96-core-processor"
