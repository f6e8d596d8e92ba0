"""The table of convolution passes: what is planned without a GPU, and the whole measuring path on the emulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.kernels import measured, planned
from benchmarks.kernels.__main__ import main
from resnet_cuda.bench.device import open_device
from resnet_cuda.bench.results import comparisons
from resnet_cuda.explain import H200
from resnet_cuda.testing.problems import resnet_layers, wide_resnet_layers
from tests.bench.made_up import OURS, comparison


def test_the_plan_has_every_pass_of_every_layer_and_says_that_nothing_was_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--plan", "--batch", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Nothing was timed: --plan was given" in out
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert not [one for one in rows if "measured" in one]
    for network, layers in (
        ("resnet50", resnet_layers(50, 2)),
        ("resnext50_32x4d", resnet_layers(50, 2, groups=32, group_width=4)),
        ("wrn_28_10", wide_resnet_layers(28, 10, 2)),
    ):
        mine = [one for one in rows if one["network"] == network]
        wgrads = {o["workload"] for o in mine if o["pass_name"] == "conv_wgrad"}
        inner = len(layers) - 1  # the first layer's input is an image
        assert len({name for name in wgrads if not name.endswith("on load")}) == len(layers)
        assert len({name for name in wgrads if name.endswith("on load")}) == inner
        assert len([o for o in mine if o["pass_name"] == "conv_dgrad"]) == inner
        assert len([o for o in mine if o["workload"].endswith("statistics")]) == len(layers)
        assert all(one["floor_us"] > 0 and one["kernel"] != "none" for one in mine)
    text = (tmp_path / "kernels.md").read_text()
    assert "Nothing was timed" in text and "## wrn_28_10, bfloat16" in text


def test_a_plan_s_figures_are_those_of_the_pass() -> None:
    passes = planned.passes(open_device("dry-run"), "wrn_28_10", torch.bfloat16, 4, 3)
    found = [planned.planned("wrn_28_10", workload, conv, H200) for workload, conv in passes]
    one = next(p for p in found if p.workload == "n4-160x32x32-k160-3x3-p1")
    x, weight = 4 * 160 * 32 * 32, 160 * 160 * 9
    assert one.pass_name == "conv_dgrad" and one.kernel == "conv_dgrad_sm90_im2col"
    assert one.flops == 2 * x * 160 * 9 and one.bytes == 2 * (2 * x + weight)
    assert one.floor_us == pytest.approx(1e6 * max(one.flops / 790e12, one.bytes / 4.3e12))
    (table,) = planned.tables(found, H200)
    assert "H200" in table.notes[0]


def test_a_dry_run_measures_every_pass_of_a_layer_and_claims_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--device", "dry-run", "--network", "wrn_28_10", "--batch", "1", "--layers", "2"]
    chosen = ["--only", "16x32x32-k160", "--seconds", "0.01", "--out", str(tmp_path)]
    assert main([*options, *chosen]) == 0
    assert "Nothing was timed: a dry run's times mean nothing" in capsys.readouterr().out
    rows = json.loads((tmp_path / "kernels.json").read_text())
    assert len(rows) == 6
    assert {one["measured"]["status"] for one in rows} == {"ok"}


def test_rates_and_ratios_follow_from_the_report() -> None:
    facts = {"network": "resnet50"}
    figures = {"flops": 2 * 10**9, "bytes": 10**8, "facts": facts, "floor_us": 50.0}
    rows = comparison({OURS: 100.0, "eager channels_last": 150.0}, level="kernel", **figures)
    (found,) = map(measured.measured, comparisons({"results": rows}))
    assert found.us == 100.0 and found.share == 0.5 and found.versus_cudnn == 1.5
    assert found.tflops == pytest.approx(20) and found.gbytes == pytest.approx(1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "--only", "no such pass"], "--only is no such pass"),
        (["--device", "cuda"], ""),
    ],
)
def test_what_makes_no_sense_here_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main([*arguments, "--batch", "1"]) == 2
    assert message in capsys.readouterr().err


def test_nothing_is_timed_in_tf32(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--tf32", "--device", "dry-run"])
    assert "--tf32 is given without --plan or --predict" in capsys.readouterr().err


def test_tf32_without_float32_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--tf32", "--plan"])
    assert "--tf32 is given without --dtype float32" in capsys.readouterr().err
