"""torchvision's ResNets against `fuse` of themselves."""

from __future__ import annotations

import copy
from types import ModuleType

import pytest
import torch
from torch import nn

from resnet_cuda import fuse, unfuse
from resnet_cuda.testing import check_rule
from tests.networks import (
    assert_close,
    assert_same_pass,
    make_adversarial,
    randomise,
    run_pass,
    train_steps,
)

NAMES = (
    "resnet18",
    "resnet50",
)  # the others are the same blocks; test_fuse_sweep.py has every name
WEIGHTS = {"random": randomise, "adversarial": make_adversarial}


@pytest.fixture(params=WEIGHTS)
def weights(request: pytest.FixtureRequest) -> str:
    return request.param


def make_pair(models: ModuleType, name: str, weights: str) -> tuple[nn.Module, nn.Module]:
    """(plain, fused) in fp64."""
    plain = WEIGHTS[weights](getattr(models, name)(num_classes=10)).double()
    fused = fuse(plain)
    assert not fuse.report.left, f"parts were not fused:\n{fuse.report}"
    return plain, fused


def images(n: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, 3, 64, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_gradients_and_statistics_in_fp64(
    torchvision_models: ModuleType, name: str, weights: str, training: bool
) -> None:
    plain, fused = make_pair(torchvision_models, name, weights)
    plain.train(training)
    fused.train(training)
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_gradients_and_statistics_in_fp32(
    torchvision_models: ModuleType, name: str, weights: str, training: bool
) -> None:
    plain, fused = make_pair(torchvision_models, name, weights)
    plain.train(training)
    fused.train(training)
    exact = run_pass(plain, images())
    x = images(dtype=torch.float32)
    assert_same_pass(run_pass(fused.float(), x), run_pass(plain.float(), x), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_inference_keeps_the_tolerance_rule(
    torchvision_models: ModuleType, name: str, weights: str, dtype: torch.dtype
) -> None:
    plain, fused = make_pair(torchvision_models, name, weights)
    plain, fused = plain.eval(), fused.eval()
    x = images(dtype=dtype).to(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = copy.deepcopy(plain).to(dtype).double()(x.double())
        plain, fused = (m.to(dtype).to(memory_format=torch.channels_last) for m in (plain, fused))
        check_rule(fused(x), plain(x), exact)


@pytest.mark.parametrize("name", NAMES)
def test_three_training_steps(torchvision_models: ModuleType, name: str, weights: str) -> None:
    plain, fused = make_pair(torchvision_models, name, weights)
    batches = [(images() + step, torch.tensor([0, 5, 9])) for step in range(3)]
    for model in (plain, fused):
        train_steps(model, batches, lr=1e-3)
    expected = plain.state_dict()
    for key, actual in fused.state_dict().items():
        if actual.is_floating_point():
            assert_close(actual, expected[key], key)
        else:
            assert torch.equal(actual, expected[key]), f"{key}: {actual} instead of {expected[key]}"
    with torch.no_grad():
        assert_close(fused.eval()(images()), plain.eval()(images()), "output after training")


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_load_both_ways_and_unfuse_restores(
    torchvision_models: ModuleType, name: str
) -> None:
    plain = getattr(torchvision_models, name)(num_classes=10).eval()
    fused = fuse(plain)
    assert isinstance(fused, type(plain))
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused.load_state_dict(randomise(copy.deepcopy(plain)).state_dict(), strict=True)
    plain.load_state_dict(fused.state_dict(), strict=True)
    x = images(dtype=torch.float32)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-4)
        restored = unfuse(fused)
        assert [type(m) for m in restored.modules()] == [type(m) for m in plain.modules()]
        assert list(restored.state_dict()) == list(plain.state_dict())
        assert torch.equal(restored(x), expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {"replace_stride_with_dilation": [False, True, True]}),
        ("resnet18", {"zero_init_residual": True}),
    ],
)
def test_variants_of_the_constructor(
    torchvision_models: ModuleType, name: str, options: dict[str, object]
) -> None:
    plain = getattr(torchvision_models, name)(num_classes=4, **options).double()
    fused = fuse(plain)
    assert not fuse.report.left
    assert_same_pass(run_pass(fused, images(2)), run_pass(plain, images(2)))


def test_replaced_heads_and_stems_still_run(torchvision_models: ModuleType) -> None:
    plain = randomise(torchvision_models.resnet18()).double().eval()
    plain.fc = nn.Identity()
    plain.maxpool = nn.Identity()
    plain.avgpool = nn.AdaptiveMaxPool2d((1, 1))
    plain.conv1 = nn.Conv2d(1, 64, 3, padding=1).double()
    fused = fuse(plain)
    assert ("", "conv1 has a bias") in [(e.path, e.note) for e in fuse.report.left]
    x = images(2)[:, :1, :16, :16]
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))


def test_a_detection_backbone_with_frozen_parts(torchvision_models: ModuleType) -> None:
    plain = randomise(torchvision_models.resnet18(num_classes=4)).double()
    for part in (plain.conv1, plain.bn1, plain.layer1):
        for parameter in part.parameters():
            parameter.requires_grad_(False)
        part.eval()
    fused = fuse(plain)
    actual, expected = run_pass(fused, images(2)), run_pass(plain, images(2))
    assert "layer1.0.conv1.weight" not in actual.grads
    assert_same_pass(actual, expected)
