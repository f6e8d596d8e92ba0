"""timm's ResNets against `fuse` of themselves."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from resnet_cuda import fuse, unfuse
from tests.networks import assert_close, assert_same_pass, make_adversarial, randomise, run_pass


def images(n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 64, 64, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("prepare", [randomise, make_adversarial])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_fused_equals_plain(timm: ModuleType, name: str, prepare: object) -> None:
    plain = prepare(timm.create_model(name, num_classes=10)).double()
    fused = fuse(plain)
    assert not fuse.report.left, f"parts were not fused:\n{fuse.report}"
    for training in (True, False):
        plain.train(training)
        fused.train(training)
        assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
    with torch.no_grad():
        assert_close(fused(images()), plain(images()), "output without gradients")
    assert list(fused.state_dict()) == list(plain.state_dict())
    restored = unfuse(fused)
    assert [type(m) for m in restored.modules()] == [type(m) for m in plain.modules()]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("resnet18", {"block_args": {"attn_layer": "se"}}, "se is a"),
        ("resnet18", {"drop_path_rate": 0.2}, "drop_path is a DropPath"),
        ("resnet18", {"drop_block_rate": 0.1}, "drop_block is a DropBlock2d"),
        ("resnet50d", {}, "downsample"),
        ("resnet18", {"act_layer": "silu"}, "is a SiLU"),
    ],
)
def test_what_is_not_one_call_is_fused_in_part_and_named(
    timm: ModuleType, name: str, options: dict[str, object], reason: str
) -> None:
    plain = randomise(timm.create_model(name, num_classes=10, **options)).double().eval()
    fused = fuse(plain)
    notes = [e.note for e in fuse.report.fused if "not as a whole" in e.note]
    assert any(reason in note for note in notes), f"\n{fuse.report}"
    assert all("conv1 + bn1" in note for note in notes), f"\n{fuse.report}"
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))


def test_feature_methods_still_work(timm: ModuleType) -> None:
    plain = randomise(timm.create_model("resnet18", num_classes=10)).double().eval()
    fused = fuse(plain)
    with torch.no_grad():
        for a, b in zip(
            fused.forward_intermediates(images(), intermediates_only=True),
            plain.forward_intermediates(images(), intermediates_only=True),
            strict=True,
        ):
            assert_close(a, b, "intermediate feature")
        fused.reset_classifier(0)
        plain.reset_classifier(0)
        assert_close(fused(images()), plain(images()), "pooled features")


@pytest.mark.parametrize("name", ["resnet18", "resnet26d", "seresnet18"])
def test_feature_lists_are_fused(timm: ModuleType, name: str) -> None:
    plain = randomise(timm.create_model(name, features_only=True, output_stride=16)).double()
    fused = fuse(plain)
    if (
        name != "resnet26d"
    ):  # whose stem's last convolution is in another module than its batch norm
        assert fuse.report.fused[0].note == "1 conv + bn (+ relu (+ maxpool)) runs"
    for training in (True, False):
        for model in (fused, plain):
            model.train(training)
        features = [model(images()) for model in (fused, plain)]
        assert type(features[0]) is list and len(features[0]) == 5
        for ours, theirs in zip(*features, strict=True):
            assert_close(ours, theirs, "feature")
    plain.set_grad_checkpointing()
    fused.set_grad_checkpointing()
    assert_close(fused(images())[-1], plain(images())[-1], "last feature, checkpointed")


def test_gradient_checkpointing_still_works(timm: ModuleType) -> None:
    plain = randomise(timm.create_model("resnet18", num_classes=10)).double()
    fused = fuse(plain)
    plain.set_grad_checkpointing()
    fused.set_grad_checkpointing()
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
