"""The experiments that train several networks: what they write, that they resume, what they refuse."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resnet_cuda.training import Augmentation, Recipe, make_cifar_like
from resnet_cuda.training.arguments import add_comparison_arguments, comparison_setting

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

# Two steps of 64 digits.
SHORT = ("--iterations", 2, "--threads", 1, "--device", "cpu")


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("degradation")


def test_degradation_compares_each_kind_of_net_with_itself(
    run_example: Callable[..., int], trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--depths", 20, 32, "--seeds", 2, "--out", trained, *SHORT)
    assert run_example("degradation", *options) == 0
    rows = table(trained / "log.csv")
    networks = ["plain-20", "plain-32", "ResNet-20", "ResNet-32"]
    assert [(r["network"], r["seed"]) for r in rows] == [(n, s) for n in networks for s in "01"]
    assert len({r["train_loss"] for r in rows}) == 8, "two runs are the same"
    summary = content(trained / "summary.json")
    last = summary["last_epoch"]
    gap = summary["train_loss_of_the_deeper_less_the_shallower"]["plain"]
    assert gap == pytest.approx(last["plain-32"]["train_loss"] - last["plain-20"]["train_loss"])
    losses = [float(r["train_loss"]) for r in rows if r["network"] == "plain-32"]
    assert last["plain-32"]["train_losses"] == losses
    assert f"plain-32 trains {'worse' if gap > 0 else 'no worse'}" in capsys.readouterr().out
    assert is_png(trained / "curves.png")

    assert run_example("degradation", *options) == 2, "runs began over others' checkpoints"
    assert "--resume" in capsys.readouterr().err
    assert run_example("degradation", *options, "--resume") == 0
    assert table(trained / "log.csv") == rows, "finished runs were trained again"


def test_layer_responses_are_those_that_hooks_measure(
    run_example: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--networks", "plain-20", "ResNet-20", "--out", tmp_path, *SHORT)
    assert run_example("layer_response", *options) == 0
    rows = table(tmp_path / "layer_response.csv")
    assert [r["network"] for r in rows] == ["plain-20"] * 19 + ["ResNet-20"] * 19
    assert rows[0]["layer"] == "bn1" and rows[18]["layer"] == "layer3.2.bn2"
    summary = content(tmp_path / "layer_response.json")["networks"]
    deviations = [abs(float(r["std"]) / float(r["measured"]) - 1) for r in rows]
    assert summary["ResNet-20"]["largest_deviation"] == pytest.approx(max(deviations[19:]))
    assert "plain-20     mean std" in capsys.readouterr().out
    assert is_png(tmp_path / "layer_response.png")


def test_shortcuts_differ_in_their_parameters_alone(
    run_example: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_example("shortcuts", "--out", tmp_path, "--plain", *SHORT) == 0
    last = content(tmp_path / "summary.json")["last_epoch"]
    sizes = [last[f"shortcut {option}"]["parameters"] for option in "ABC"]
    # Of the known counts, 2 * 144 weights of the stem are for colours.
    assert sizes[:2] == [269_434, 269_434 + 2_752] and sizes[2] > sizes[1]
    assert len(table(tmp_path / "log.csv")) == 3 and is_png(tmp_path / "curves.png")
    assert "shortcut B: 272,186 parameters" in capsys.readouterr().out


def test_width_and_depth_are_compared_at_equal_cost(
    run_example: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--families", "resnext", "--out", tmp_path, *SHORT)
    assert run_example("width_vs_depth", *options) == 0
    last = content(tmp_path / "summary.json")["last_epoch"]
    assert list(last) == ["ResNeXt-29 1x64d", "ResNeXt-29 2x40d", "ResNeXt-29 4x24d"]
    costs = [row["macs"] for row in last.values()]
    assert max(costs) < 1.02 * min(costs), f"the networks cost {costs} multiply-adds"
    assert "ResNeXt-29 1x64d: 2,928,128 multiply-adds" in capsys.readouterr().out
    assert len(table(tmp_path / "log.csv")) == 3 and is_png(tmp_path / "curves.png")


def test_cifar_has_the_papers_recipe_and_augmentation(tmp_path: Path) -> None:
    make_cifar_like(tmp_path)
    parser = argparse.ArgumentParser()
    add_comparison_arguments(parser, "out")
    setting, seeds = comparison_setting(
        parser.parse_args(["--data", str(tmp_path), "--seed", "3", "--seeds", "2"])
    )
    assert (setting.recipe, setting.augment, list(seeds)) == (Recipe(), Augmentation(), [3, 4])
    digits, _ = comparison_setting(parser.parse_args(["--lr", "0.5"]))
    assert (digits.recipe.lr, digits.augment, digits.data.train_images.shape[1:]) == (
        0.5,
        None,
        (1, 8, 8),
    )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("degradation", ("--depths", 56, 20), "depths=56 20: expected the smaller one first"),
        ("degradation", ("--depths", 20, 21), "cifar_plain21"),
        ("degradation", ("--seeds", 0), "seeds=0: expected at least 1"),
        ("degradation", ("--iterations", 0), "iterations=0"),
        ("degradation", ("--data", "nowhere"), "data='nowhere': not a folder"),
        ("shortcuts", ("--depth", 21), "cifar_resnet21"),
        ("layer_response", ("--networks", "plane-20"), "cifar_plane20"),
    ],
)
def test_arguments_that_make_no_sense_are_named(
    run_example: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    options: tuple[object, ...],
    message: str,
) -> None:
    # Behind the usual ones, so that they win.
    assert run_example(name, "--out", tmp_path / "out", *SHORT, *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "a refused run wrote something"


def test_without_scikit_learn_it_is_told_what_to_install(
    run_example: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert run_example("degradation", "--out", tmp_path / "out", *SHORT) == 2
    assert "pip install scikit-learn" in capsys.readouterr().err
