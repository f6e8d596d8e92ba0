"""Peers that are here, absent, or broken: each is told apart, none stops the others."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import resnet_cuda
from resnet_cuda.bench import peers
from resnet_cuda.bench.workload import Absent


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose packages are imported before installed ones; nothing stays imported afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    roots = {p.module.partition(".")[0] for p in peers.PACKAGES}
    hidden = {n: m for n, m in sys.modules.items() if n.partition(".")[0] in roots}
    for name in hidden:
        del sys.modules[name]
    importlib.invalidate_caches()
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] in roots]:
        del sys.modules[name]
    sys.modules.update(hidden)


def write(folder: Path, module: str, text: str) -> None:
    *packages, name = module.split(".")
    for package in packages:
        folder = folder / package
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").touch()
    (folder / f"{name}.py").write_text(text)


def test_an_absent_package_is_called_not_installed() -> None:
    with pytest.raises(Absent, match="^inplace_abn is not installed$"):
        peers.require("inplace_abn")
    assert not peers.is_here("inplace_abn")


def test_a_package_that_lacks_another_one_is_not_called_absent(packages: Path) -> None:
    write(packages, "inplace_abn", "import no_such_dependency")
    with pytest.raises(Absent, match="inplace_abn cannot be imported.*no_such_dependency"):
        peers.require("inplace_abn")


@pytest.mark.parametrize("error", ["ImportError('undefined symbol')", "OSError('libcudart.so')"])
def test_a_package_whose_import_raises_is_absent_with_its_message(
    packages: Path, error: str
) -> None:
    write(packages, "tensorrt", f"raise {error}")
    with pytest.raises(Absent, match=f"tensorrt cannot be imported: {error.split('(')[0]}"):
        peers.require("tensorrt")


def test_presence_lists_every_package_with_its_version_or_the_reason(packages: Path) -> None:
    write(packages, "inplace_abn", "__version__ = '1.2.3'")
    write(packages, "tensorrt", "raise RuntimeError('built for another torch')")
    rows = {row["name"]: row for row in peers.presence()}
    assert rows.keys() == {package.name for package in peers.PACKAGES}
    assert (rows["inplace_abn"]["version"], rows["inplace_abn"]["absent"]) == ("1.2.3", "")
    assert rows["tensorrt"]["version"] == ""
    assert "built for another torch" in rows["tensorrt"]["absent"]


# torchvision without its C++ ops, as it fails: a fake kernel for an op that nobody has defined.
BROKEN = """
import torch
@torch.library.register_fake("torchvision::nms")
def _(dets, scores, iou_threshold): ...
def resnet18(): return "the model"
"""


def test_torchvision_without_its_ops_still_gives_its_models(tmp_path: Path) -> None:
    write(tmp_path, "torchvision.models", BROKEN)
    # In a process of its own: in this one the ops may have been defined already.
    code = "from resnet_cuda.bench import peers; print(peers.require('torchvision').resnet18())"
    root = Path(resnet_cuda.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "the model", done.stderr


def test_torchvision_that_fails_for_another_reason_is_absent(packages: Path) -> None:
    write(packages, "torchvision.models", "raise RuntimeError('no such thing')")
    with pytest.raises(Absent, match="torchvision cannot be imported: RuntimeError: no such thing"):
        peers.require("torchvision")


def test_timm_is_imported_after_torchvision_was_made_to_work(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(packages, "timm", "import torchvision.models\n__version__ = '9'")
    write(packages, "torchvision.models", "")
    order: list[str] = []
    monkeypatch.setattr(peers, "torchvision_models", lambda: order.append("torchvision"))
    assert peers.version("timm") == "9"
    assert order == ["torchvision"], "timm alone would fail where torchvision's ops do not load"
