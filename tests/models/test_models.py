"""The model zoo: sizes, keys and weights equal torchvision's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from resnet_cuda import models, reference
from resnet_cuda import nn as fused_nn
from tests.networks import assert_same_pass, run_pass

PARAMETERS = {
    ("resnet18", "B"): 11_689_512,
    ("resnet18", "A"): 11_515_688,
    ("resnet34", "B"): 21_797_672,
    ("resnet34", "A"): 21_623_848,
    ("resnet34", "C"): 22_716_840,
    ("resnet50", "B"): 25_557_032,
    ("resnet101", "B"): 44_549_160,
    ("resnet152", "B"): 60_192_808,
    ("resnext50_32x4d", "B"): 25_028_904,
    ("resnext101_32x4d", "B"): 44_177_704,
    ("resnext101_32x8d", "B"): 88_791_336,
    ("resnext101_64x4d", "B"): 83_455_272,
    ("wide_resnet50_2", "B"): 68_883_240,
    ("wide_resnet101_2", "B"): 126_886_696,
}


@pytest.mark.parametrize(("name", "shortcut"), PARAMETERS)
def test_parameter_counts(name: str, shortcut: str) -> None:
    with torch.device("meta"):
        model = models.create_model(name, shortcut=shortcut)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name, shortcut]


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


def test_a_model_equals_torchvisions(torchvision_models: ModuleType) -> None:
    theirs = torchvision_models.resnet50(num_classes=4, replace_stride_with_dilation=[0, 0, 1])
    ours = models.resnet50(num_classes=4, replace_stride_with_dilation=[0, 0, 1])
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert_same_pass(run_pass(ours.double(), x), run_pass(theirs.double(), x))


def test_every_listed_model_is_a_function_of_the_package() -> None:
    names = models.list_models()
    assert names == sorted(names) and "resnet50" in names
    for name in names:
        with torch.device("meta"):
            assert isinstance(getattr(models, name)(num_classes=2), models.ResNet)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="name='resnet51'.*resnet50"):
        models.create_model("resnet51")


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
