"""The experiment with and without batch norm: what it writes, that it resumes, what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

# Two steps of 64 digits.
SHORT = ("--iterations", 2, "--threads", 1, "--device", "cpu")


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rates_and_probes_are_reported_for_both_networks(
    run_example: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path, "--rates", 0.02, 1e30, "--trained", 0.99, "--probes", 3, *SHORT)
    assert run_example("batch_norm", *options) == 0
    rates = table(tmp_path / "rates.csv")
    both = ["batch norm", "no batch norm"]
    expected = [(name, rate) for name in both for rate in ("0.02", "1e+30")]
    assert [(row["network"], row["lr"]) for row in rates] == expected
    assert [row["train_loss"] == "" for row in rates] == [False, True, False, True]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rates_that_train"] == {name: [0.02] for name in both}
    probes = table(tmp_path / "probes.csv")
    assert [row["iteration"] for row in probes] == ["0", "1", "2"] * 2
    for row in probes:
        low, high = float(row["lowest_loss"]), float(row["highest_loss"])
        assert low <= high and float(row["percentile_15"]) < float(row["percentile_85"])
    assert "medians over training with rate 0.02" in capsys.readouterr().out
    assert (tmp_path / "batch_norm.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_probed_where_no_rate_trains_both(
    run_example: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path, "--rates", 0.02, "--trained", 0, *SHORT)
    assert run_example("batch_norm", *options) == 0
    assert "nothing was probed" in capsys.readouterr().out
    assert not (tmp_path / "probes.csv").exists() and (tmp_path / "batch_norm.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "resnet21"), "resnet21"),
        (("--rates", 0.1, -1), "lr=-1.0: expected more than 0"),
        (("--seeds", 0), "seeds=0"),
        (("--probes", 1), "probes=1: expected at least 2"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    run_example: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[object, ...],
    message: str,
) -> None:
    assert run_example("batch_norm", "--out", tmp_path / "out", *SHORT, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a refused run wrote something"
