"""The regression guard finds each kind of regression, with its figures, and nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import guard, guard_figures
from resnet_cuda import _raw
from resnet_cuda.bench import resources

HERE = {
    "compiler": "GNU 12.2.0",
    "cpu_capability": "AVX2",
    "torch": "2.13.0",
    "nvcc": "13.0.88",
    "architectures": ["sm_80", "sm_90a"],
}
FIGURES: guard_figures.Figures = {
    "launches": {
        "add_relu float32 add_relu_forward": {
            "launches": 1,
            "bytes": 1200,
            "sectors": 40,
            "distinct bytes": 1200,
            "distinct sectors": 40,
            "shared wavefronts": 8,
        }
    },
    "kernels": {
        "add_relu_forward: add_relu_forward_kernel float32 sm_80": {
            "spilled bytes": 0,
            "local bytes": 0,
            "warps": 64,
        },
        "conv_fprop: implicit_gemm_kernel float64 sm_90a": {
            "spilled bytes": 8,
            "local bytes": 8,
            "warps": 16,
        },
    },
    "passes": {"conv_fprop sm_80": {"kernels": 32, "code bytes": 1000}},
    "build": {"all kernels": {"objects": 40, "PTX bytes": 1000}},
    "ratios": {"resnet18": {"eager/ours": 1.30}},
}


@pytest.fixture
def baseline() -> dict[str, Any]:
    committed = guard.load(guard.BASELINE)
    return {**committed, "environment": dict(HERE), "figures": copy.deepcopy(FIGURES)}


def changed(section: str, subject_part: str, metric: str, value: float) -> guard_figures.Figures:
    figures = copy.deepcopy(FIGURES)
    (subject,) = (subject for subject in figures[section] if subject_part in subject)
    figures[section][subject][metric] = value
    return figures


def test_an_unchanged_measurement_passes(baseline: dict[str, Any]) -> None:
    outcome = guard.compare(baseline, copy.deepcopy(FIGURES), HERE)
    assert not (outcome.worse or outcome.better or outcome.unchecked)
    assert outcome.checked == 17


@pytest.mark.parametrize(
    ("section", "subject", "metric", "value", "figures"),
    [
        ("launches", "add_relu", "bytes", 1204, "1200 -> 1204 (+4, +0.3%)"),
        ("launches", "add_relu", "sectors", 41, "40 -> 41"),
        ("launches", "add_relu", "distinct bytes", 1600, "1200 -> 1600"),
        ("launches", "add_relu", "distinct sectors", 50, "40 -> 50"),
        ("launches", "add_relu", "shared wavefronts", 9, "8 -> 9"),
        ("launches", "add_relu", "launches", 2, "1 -> 2"),
        ("kernels", "float64", "spilled bytes", 12, "8 -> 12"),
        ("kernels", "float32", "local bytes", 16, "0 -> 16 (+16)"),
        ("kernels", "float64", "warps", 8, "16 -> 8 (-8, -50.0%)"),
        ("passes", "conv_fprop", "kernels", 33, "32 -> 33"),
        ("passes", "conv_fprop", "code bytes", 1101, "1000 -> 1101"),
        ("build", "all", "objects", 41, "40 -> 41"),
        ("build", "all", "PTX bytes", 1101, "1000 -> 1101"),
        ("ratios", "resnet18", "eager/ours", 0.8, "1.3 -> 0.8"),
    ],
)
def test_a_regression_is_found_with_its_figures(
    baseline: dict[str, Any], section: str, subject: str, metric: str, value: float, figures: str
) -> None:
    outcome = guard.compare(baseline, changed(section, subject, metric, value), HERE)
    assert len(outcome.worse) == 1 and not outcome.better
    line = outcome.worse[0]
    assert subject in line and f"{metric} {figures}" in line
    assert baseline["margins"][metric]["reason"] in line
    assert any("--update" in text for text in outcome.lines())


@pytest.mark.parametrize(
    ("section", "subject", "metric", "value"),
    [
        ("passes", "conv_fprop", "code bytes", 1090),
        ("build", "all", "PTX bytes", 1040),
        ("ratios", "resnet18", "eager/ours", 1.25),
    ],
)
def test_what_a_margin_covers_is_neither_worse_nor_better(
    baseline: dict[str, Any], section: str, subject: str, metric: str, value: float
) -> None:
    outcome = guard.compare(baseline, changed(section, subject, metric, value), HERE)
    assert not outcome.worse and not outcome.better and outcome.checked == 17


def test_an_improvement_passes_and_asks_for_a_new_baseline(baseline: dict[str, Any]) -> None:
    outcome = guard.compare(baseline, changed("launches", "add_relu", "bytes", 800), HERE)
    assert not outcome.worse
    assert "1200 -> 800" in outcome.better[0]
    assert any("--update" in line for line in outcome.lines())


def test_figures_without_a_counterpart_are_not_checked_and_named(baseline: dict[str, Any]) -> None:
    figures = copy.deepcopy(FIGURES)
    figures["launches"]["new float32 kernel"] = {"bytes": 1}
    del figures["kernels"]["conv_fprop: implicit_gemm_kernel float64 sm_90a"]
    outcome = guard.compare(baseline, figures, HERE)
    assert outcome.checked == 14 and sum(outcome.unchecked.values()) == 4
    text = "\n".join(outcome.lines())
    assert "not in the baseline: new float32 kernel" in text
    assert "no longer there: conv_fprop: implicit_gemm_kernel float64 sm_90a (3 figures)" in text


def test_a_new_kernel_must_not_spill(baseline: dict[str, Any]) -> None:
    figures = copy.deepcopy(FIGURES)
    for name, spilled in (("clean", 0), ("spilling", 16)):
        figures["kernels"][f"conv_fprop: {name} sm_80"] = {
            "spilled bytes": spilled,
            "local bytes": 0,
            "warps": 8,
        }
    outcome = guard.compare(baseline, figures, HERE)
    (line,) = outcome.worse
    assert line.startswith("conv_fprop: spilling sm_80: spilled bytes 0 -> 16 (+16)")
    assert sum(outcome.unchecked.values()) == 2, "how many of its warps fit is new, too"


def test_a_build_without_nvcc_leaves_compiled_figures_unchecked(baseline: dict[str, Any]) -> None:
    figures = {name: FIGURES[name] for name in ("launches", "ratios")}
    outcome = guard.compare(baseline, figures, {**HERE, "nvcc": None, "architectures": []})
    assert outcome.checked == 7 and sum(outcome.unchecked.values()) == 10
    assert outcome.unchecked["kernels: could not be measured here"] == 6


def test_figures_of_another_nvcc_are_not_checked(baseline: dict[str, Any]) -> None:
    figures = changed("kernels", "float32", "spilled bytes", 100)
    outcome = guard.compare(baseline, figures, {**HERE, "nvcc": "13.2.1"})
    assert not outcome.worse
    assert "kernels: the baseline's nvcc is 13.0.88, this one is 13.2.1" in outcome.unchecked


def test_an_architecture_that_was_not_built_is_not_checked(baseline: dict[str, Any]) -> None:
    figures = copy.deepcopy(FIGURES)
    del figures["passes"]["conv_fprop sm_80"]
    here = {**HERE, "architectures": ["sm_90a"]}
    outcome = guard.compare(baseline, figures, here)
    assert "passes: this build is for sm_90a alone" in outcome.unchecked
    assert any("architectures" in why for why in outcome.unchecked)  # the cost of the build


@pytest.mark.parametrize(
    ("key", "metric"),
    [("compiler", "shared wavefronts"), ("torch", "eager/ours"), ("cpu_capability", "eager/ours")],
)
def test_figures_that_depend_on_the_environment_are_compared_in_the_same_one(
    baseline: dict[str, Any], key: str, metric: str
) -> None:
    section = "launches" if metric == "shared wavefronts" else "ratios"
    subject = next(iter(FIGURES[section]))
    figures = changed(section, subject, metric, 0.1 if section == "ratios" else 1000)
    assert guard.compare(baseline, figures, HERE).worse
    outcome = guard.compare(baseline, figures, {**HERE, key: "another"})
    assert not outcome.worse and any(f"{key} is" in why for why in outcome.unchecked)


def test_the_baseline_has_a_margin_with_a_reason_for_every_metric() -> None:
    committed = guard.load(guard.BASELINE)
    metrics = {
        metric
        for subjects in committed["figures"].values()
        for figures in subjects.values()
        for metric in figures
    }
    assert metrics == set(committed["margins"]), "give each metric a margin, and no other"
    for name, entry in committed["margins"].items():
        assert entry["margin"] >= 0 and len(entry["reason"]) > 10, f"say why {name} has this margin"


def test_writing_a_baseline_and_reading_it_gives_the_same(
    tmp_path: Path, baseline: dict[str, Any]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(guard.dump(baseline))
    assert guard.load(path) == baseline
    committed = guard.BASELINE.read_text()
    assert guard.dump(json.loads(committed)) == committed, f"write it with {guard.UPDATE}"


def test_an_update_keeps_what_cannot_be_measured_here(baseline: dict[str, Any]) -> None:
    measured: guard_figures.Figures = {"launches": {"a": {"bytes": 1}}, "ratios": {}}
    here = {**HERE, "nvcc": None, "architectures": [], "torch": "2.14.0"}
    new = guard.updated(baseline, measured, here)
    assert new["figures"]["launches"] == measured["launches"]
    assert new["figures"]["kernels"] == FIGURES["kernels"]
    assert new["environment"]["nvcc"] == "13.0.88" and new["environment"]["torch"] == "2.14.0"


def test_an_update_keeps_figures_within_their_margin_so_that_they_cannot_creep(
    baseline: dict[str, Any],
) -> None:
    figures = changed("passes", "conv_fprop", "code bytes", 1090)
    figures["launches"] = changed("launches", "add_relu", "bytes", 1204)["launches"]
    new = guard.updated(baseline, figures, HERE)["figures"]
    assert new["passes"]["conv_fprop sm_80"]["code bytes"] == 1000
    assert new["launches"]["add_relu float32 add_relu_forward"]["bytes"] == 1204
    other_torch = guard.updated(
        baseline, changed("ratios", "resnet18", "eager/ours", 1.31), {**HERE, "torch": "2.14.0"}
    )
    assert other_torch["figures"]["ratios"]["resnet18"]["eager/ours"] == 1.31


def test_a_missing_baseline_is_an_error_that_says_how_to_make_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard.main(["--baseline", str(tmp_path / "none.json")]) == 2
    assert "--update" in capsys.readouterr().err


def test_the_command_fails_on_a_planted_load_and_passes_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    committed = guard.load(guard.BASELINE)
    measured = copy.deepcopy(committed["figures"])
    monkeypatch.setattr(guard_figures, "environment", lambda: committed["environment"])
    monkeypatch.setattr(guard_figures, "figures", lambda: (measured, []))
    assert guard.main([]) == 0
    subject = next(s for s in measured["launches"] if s.endswith("float32 add_relu_forward"))
    counters = measured["launches"][subject]
    counters["bytes"] += counters["bytes"] // 3  # x is read twice
    assert guard.main([]) == 1
    out = capsys.readouterr().out
    assert "WORSE" in out and subject in out and "+33" in out


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_every_pass_is_counted() -> None:
    from resnet_cuda import _host

    kernels = {subject.split()[-1] for subject in guard_figures.launches()}
    missing = [p for p in _host.passes if not any(k.startswith(p) for k in kernels)]
    assert not missing, f"give them a problem in guard_figures.problems: {missing}"


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_counters_grow_with_what_a_kernel_loads() -> None:
    raw = torch.ops.resnet_cuda
    x = torch.ones(1, 8, 4, 4).to(memory_format=torch.channels_last)
    found = {}
    with guard_figures.emulated(checked=True, count=True) as emulation:
        for name, residual in (("add", x), ("more", torch.ones_like(x))):
            raw._add_relu_forward(x, residual, False)
            found[name] = emulation.launches()[-1]["counters"]
    # The same tensor twice is staged twice, so both launches touch as much.
    assert found["add"]["distinct_load_bytes"] == found["more"]["distinct_load_bytes"] == 2 * 512


def test_compiled_figures_come_from_the_record_of_the_build() -> None:
    kernel = resources.Kernel(
        "add_relu",
        "_Z1",
        "void rnc::add_relu_forward_kernel<float>(P)",
        "sm_80",
        registers=40,
        threads=256,
        static_shared=0,
        dynamic_shared=0,
        stack=8,
        spill_stores=4,
        spill_loads=4,
        constant=0,
        code=512,
    )
    found = guard_figures.compiled(resources.Resources("13.0", {"add_relu": 6.0}, 3, 900, [kernel]))
    (figures,) = found["kernels"].values()
    assert figures == {"spilled bytes": 8, "local bytes": 8, "warps": 48}
    (figures,) = found["passes"].values()
    assert figures == {"kernels": 1, "code bytes": 512}
    assert found["build"] == {"all kernels": {"objects": 3, "PTX bytes": 900}}


def test_each_vendors_cpus_have_ratios_of_their_own(baseline: dict[str, Any]) -> None:
    baseline["figures"]["ratios"] = {"resnet18, A": {"eager/ours": 1.3}}
    measured = {**FIGURES, "ratios": {"resnet18, B": {"eager/ours": 0.8}}}
    outcome = guard.compare(baseline, measured, HERE)
    assert not outcome.worse and outcome.unchecked["ratios: of another CPU: resnet18, A"] == 1
    kept = guard.updated(baseline, measured, HERE)["figures"]["ratios"]
    assert kept == {"resnet18, A": {"eager/ours": 1.3}, "resnet18, B": {"eager/ours": 0.8}}
