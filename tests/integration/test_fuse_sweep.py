"""Every residual network of torchvision and timm by name: what `fuse` makes of it, and that it changes no result."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import fuse, testing, unfuse
from resnet_cuda.bench import peers
from tests.integration import swept_models
from tests.integration.fuse_reports import rows
from tests.networks import assert_close, assert_same_pass, run_pass

REPORTS = Path(__file__).with_name("fuse_reports.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "fuse.md"


@cache
def packages() -> dict[str, ModuleType]:
    """torchvision's models and timm, where they are installed."""
    try:
        found = {"torchvision": peers.torchvision_models()}
        found["timm"] = pytest.importorskip("timm")
    except ImportError:
        return {}
    return found


def swept() -> list[str]:
    """package/name of every network in the sweep."""
    if not packages():
        return []
    theirs = [f"timm/{name}" for name in swept_models.timm_names(packages()["timm"])]
    return [f"torchvision/{name}" for name in swept_models.TORCHVISION] + theirs


def computed() -> list[str]:
    """Those that turn images into logits, a tensor."""
    others = swept_models.TORCHVISION_SEGMENTATION + swept_models.TORCHVISION_DETECTION
    return [path for path in swept() if path.split("/")[1] not in others]


def reports() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(REPORTS.read_text())
    return stored


def _kinds(summary: dict[str, dict[str, int]]) -> set[str]:
    """What it says about a network of any depth and width."""
    notes = [note for counts in summary.values() for note in counts]
    return {re.sub(r"Sequential: \d+ blocks| \+ projection", "", note) for note in notes}


def small(path: str) -> nn.Module:
    package, name = path.split("/")
    return swept_models.small(packages()[package], name)


def images(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 32, 32, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.skipif(not packages(), reason="torchvision or timm is not installed")
def test_the_sweep_is_not_empty() -> None:
    assert len(computed()) >= 60
    assert set(swept()) == set(reports()), (
        "other names are swept than are stored: run `python -m tests.integration.fuse_reports`"
    )


# The whole networks take a minute; all of them are looked at when the reports are stored.
@pytest.mark.parametrize("path", swept()[::9])
def test_the_report_is_the_stored_one(path: str) -> None:
    package, name = path.split("/")
    model = swept_models.whole(packages()[package], name)
    stored = reports()[path]
    assert swept_models.summary(model) == stored, (
        "fuse converts more or less than before: look, and run `python -m tests.integration.fuse_reports`"
    )


@pytest.mark.parametrize("path", computed())
def test_fusing_changes_no_result(path: str) -> None:
    plain = small(path)
    fused = fuse(plain)
    notes, stored = (_kinds(r) for r in (swept_models.summary(plain), reports()[path]))
    assert notes <= stored, "fuse made more or less of it than of the whole network"
    for training in (True, False):
        passes = []
        for model in (fused, plain):
            torch.manual_seed(5)  # dropout and drop path
            passes.append(run_pass(model.train(training), images(4)))
        assert_same_pass(*passes)
    with torch.no_grad():
        assert_close(fused(images(4)), plain(images(4)), "output without gradients")
    assert list(fused.state_dict()) == list(plain.state_dict())
    back = unfuse(fused, inplace=True)
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize(
    "rates", [{"drop_path_rate": 0.5}, {"drop_block_rate": 0.3}, {"drop_rate": 0.5}]
)
def test_what_drops_at_random_drops_the_same(timm: ModuleType, rates: dict[str, float]) -> None:
    plain = swept_models.filled(timm.create_model("resnet26d", num_classes=5, **rates).double())
    passes = []
    for model in (fuse(plain), plain):
        torch.manual_seed(5)
        passes.append(run_pass(model, images(4)))
    assert_same_pass(*passes)


class Outputs(nn.Module):
    """A segmentation network whose outputs are one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(list(self.model(x).values()), 1)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_resnet50"])
def test_segmentation_gives_the_same(torchvision_models: ModuleType, name: str) -> None:
    plain = Outputs(swept_models.small(torchvision_models, name))
    fused = fuse(plain)
    for training in (True, False):
        passes = []
        for model in (fused, plain):
            torch.manual_seed(5)
            passes.append(run_pass(model.train(training), images(2)))
        assert_same_pass(*passes)
    assert type(fused.model(images(2))) is type(plain.model(images(2)))


def test_a_detection_backbone_with_frozen_batch_norms_gives_the_same(
    torchvision_models: ModuleType,
) -> None:
    make = torchvision_models.detection.backbone_utils.resnet_fpn_backbone
    with swept_models.without_initialisation():
        plain = swept_models.shallow(make(backbone_name="resnet50", weights=None).body)
    kinds = {type(m).__name__ for m in plain.modules()}
    assert "FrozenBatchNorm2d" in kinds and "BatchNorm2d" not in kinds
    fused = fuse(plain)
    assert not fuse.report.left
    for training in (True, False):
        for own in (plain, fused):
            own.train(training)
        passes = [run_pass(_Joined(own), images(2)) for own in (fused, plain)]
        assert passes[1].grads, "the stages are trained"
        assert_same_pass(*passes)


class _Joined(nn.Module):
    """A backbone whose feature maps are one vector per image."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([z.flatten(1) for z in self.body(x).values()], 1)


EMULATED = (
    *("torchvision/resnet18", "timm/resnet26d", "timm/resnext50_32x4d", "timm/wide_resnet50_2"),
    *("timm/seresnet18", "timm/resnetaa50", "timm/resnet50s", "timm/skresnet18"),
)


@pytest.mark.parametrize("path", [path for path in EMULATED if packages()])
def test_the_kernels_change_no_result(path: str) -> None:
    plain = small(path)
    fused = fuse(plain)
    for training in (True, False):
        with testing.emulated():
            actual = run_pass(fused.train(training), images(2))
        assert_same_pass(actual, run_pass(plain.train(training), images(2)))


def test_the_document_has_the_stored_reports() -> None:
    text = DOCUMENT.read_text()
    for row in rows(reports()):
        assert row in text, "docs/fuse.md is old: run `python -m tests.integration.fuse_reports`"


def test_the_document_names_every_reason() -> None:
    """Reasons in the stored reports, with what differs from model to model left out."""
    text = DOCUMENT.read_text()
    notes = {note.split(": ", 1)[1] for report in reports().values() for note in report["left"]}
    for note in notes:
        key = re.sub(r".*is a \w+, not a (\w+)", r"not a \1", note)
        assert key in text, f"docs/fuse.md does not explain {key!r}"
