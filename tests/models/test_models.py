"""The model zoo: sizes, keys and weights equal torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn

from resnet_cuda import models, reference
from resnet_cuda import nn as fused_nn
from tests.networks import assert_same_pass, randomise, run_pass

UNKNOWN_TO_TORCHVISION = ("cifar", "wrn", "plain", "resnext101_32x4d")
SHARED = [name for name in models.list_models() if not name.startswith(UNKNOWN_TO_TORCHVISION)]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet34", {"zero_init_residual": True, "num_classes": 10}),
        ("resnet50", {"replace_stride_with_dilation": [False, True, True]}),
        ("resnet50", {"zero_init_residual": True}),
        ("resnext50_32x4d", {}),
        ("wide_resnet50_2", {"num_classes": 3}),
    ],
)
def test_the_same_seed_gives_torchvisions_weights(
    torchvision_models: ModuleType, name: str, options: dict[str, object]
) -> None:
    torch.manual_seed(3)
    theirs = getattr(torchvision_models, name)(**options)
    torch.manual_seed(3)
    ours = models.create_model(name, **options)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    for key, value in ours.state_dict().items():
        assert torch.equal(value, expected[key]), f"{key} differs"
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(expected, strict=True)


@pytest.mark.parametrize("name", SHARED)
def test_a_model_with_torchvisions_weights_equals_it(
    torchvision_models: ModuleType, name: str
) -> None:
    theirs = on_cpu(getattr(torchvision_models, name), num_classes=4).double()
    for m in theirs.modules():
        if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            m.reset_parameters()
    randomise(theirs)
    ours = on_cpu(getattr(models, name), num_classes=4).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    # Of the largest only one image, without batch statistics: the weights alone cost seconds.
    large = sum(p.numel() for p in ours.parameters()) > 70_000_000
    x = torch.randn(1 if large else 3, 3, 32, 32, dtype=torch.float64)
    ours.train(not large)
    theirs.train(not large)
    assert_same_pass(run_pass(ours, x), run_pass(theirs, x))


def on_cpu(make: Callable[..., nn.Module], **options: object) -> nn.Module:
    """The model with parameters that are still to be set."""
    with torch.device("meta"):
        return make(**options).to_empty(device="cpu")


def test_every_listed_model_is_a_function_of_the_package() -> None:
    names = models.list_models()
    assert names == sorted(names) and "resnet50" in names
    missing = [name for name in names if name not in models.__all__]
    assert not missing, f"resnet_cuda.models does not export {missing}"


def test_an_unknown_model_is_named_with_the_nearest_ones() -> None:
    with pytest.raises(
        ValueError, match="name='resnet51': did you mean resnet50 or .*expected one of"
    ):
        models.create_model("resnet51")
    with pytest.raises(ValueError, match="name='xyz': expected one of cifar_plain20"):
        models.create_model("xyz")


def test_loading_what_does_not_fit_lists_every_key() -> None:
    model = models.cifar_resnet(8)
    state = model.state_dict()
    del state["bn1.weight"]
    state["conv9.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError, match=r"(?s)Missing.*bn1\.weight.*Unexpected.*conv9\.weight"):
        model.load_state_dict(state)


def test_zero_init_residual_reaches_every_block_class(torchvision_models: ModuleType) -> None:
    for block in (torchvision_models.resnet.Bottleneck, fused_nn.BasicBlock):
        model = models.ResNet(block, [1, 1], 2, zero_init_residual=True, planes=(4, 8))
        for stage in (model.layer1, model.layer2):
            bn = getattr(stage[0], "bn3", stage[0].bn2)
            assert not bn.weight.any(), f"{block}: the last gamma does not start at zero"
            assert stage[0].bn1.weight.all(), f"{block}: a first gamma starts at zero"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stem": "mnist"}, "stem='mnist'"),
        ({"shortcut": "E"}, "shortcut='E'"),
        ({"replace_stride_with_dilation": [True]}, "replace_stride_with_dilation"),
        ({"planes": (64, 128)}, "planes=\\(64, 128\\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.resnet18(**options)


def test_small_images_with_the_cifar_stem() -> None:
    model = models.ResNet(
        fused_nn.BasicBlock,
        [1, 1, 1],
        num_classes=10,
        planes=(16, 32, 64),
        stem="cifar",
        in_channels=1,
    )
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
    assert isinstance(model.maxpool, nn.Identity)


def test_a_foreign_block_class_can_be_passed(torchvision_models: ModuleType) -> None:
    block = torchvision_models.resnet.BasicBlock
    model = reference.ResNet(block, [1, 1], num_classes=3, planes=(8, 16), stem="cifar")
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def test_another_norm_layer_runs_unfused() -> None:
    def group_norm(channels: int) -> nn.Module:
        return nn.GroupNorm(2, channels)

    torch.manual_seed(0)
    ours = models.resnet18(num_classes=3, norm_layer=group_norm)
    torch.manual_seed(0)
    plain = reference.ResNet(reference.BasicBlock, [2, 2, 2, 2], 3, norm_layer=group_norm)
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(ours(x), plain(x))
