"""`info MODEL` and `info --compare`."""

from __future__ import annotations

import pytest

from resnet_cuda import _raw
from resnet_cuda.cli import main


def test_a_model_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    options = ["--batch", "2", "--dtype", "float32", "--gpu", "A100"]
    assert main(["info", "cifar_resnet20", *options]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("269,722", "40,551,040 at 32x32", "inference", "training step", "floor on A100"):
        assert words in out, f"{words!r} is missing in:\n{out}"
    assert "156 in TF32" in out, "the floor of float32 is of products in TF32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet51"], "did you mean resnet50"),
        (["resnet50", "--batch", "0"], "--batch is 0"),
        (["resnet50", "--image-size", "-1"], "--image-size is -1"),
    ],
)
def test_a_bad_argument_is_named(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main(["info", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_the_papers_networks_stand_side_by_side(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # a narrower table breaks lines
    assert main(["info", "--compare"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for row in (
        "plain-34 21.62 3.644 3.56 2.03 28.54",
        "VGG-19 143.67 19.632 14.85 1.00 -",
        "ResNet-152 60.19 11.282 22.03 0.57 19.38 / 4.49",
        "ResNeXt-50 32x4d 25.03 4.230 14.40 1.03 22.2",
        "WRN-28-10 36.48 5.243 2.60 20.73 4.00",
    ):
        assert row in out, f"{row!r} is missing in:\n{out}"
