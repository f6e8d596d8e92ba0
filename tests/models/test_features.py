"""Feature maps: those of the classifier, timm's indices and strides, fused as the network is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import fuse, fuse_report, models, unfuse
from resnet_cuda.bench import peers
from resnet_cuda.bench.workload import Absent
from resnet_cuda.nn._recording import BranchCall, listening
from tests.networks import assert_close, assert_same_pass, randomise, run_pass

ALL = (0, 1, 2, 3, 4)


def images(pixels: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, pixels, pixels, generator=generator, dtype=torch.float64)


class Joined(nn.Module):
    """The maps side by side, so that one gradient reaches all of them."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([z.flatten(1) for z in self.features(x)], 1)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet18", 32), ("resnet18", 8), ("resnet50", 16), ("resnext50_32x4d", 8)],
)
def test_maps_and_gradients_are_timms(name: str, output_stride: int) -> None:
    try:
        timm = peers.require("timm")
    except Absent:
        pytest.skip("timm is not installed")
    options = {"features_only": True, "out_indices": ALL, "output_stride": output_stride}
    theirs = randomise(timm.create_model(name, **options)).double()
    ours = models.create_model(name, **options).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert [i.channels for i in ours.feature_info] == theirs.feature_info.channels()
    assert [i.reduction for i in ours.feature_info] == theirs.feature_info.reduction()
    assert_same_pass(run_pass(Joined(ours), images()), run_pass(Joined(theirs), images()))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"out_indices": (0, 2)}),
        ("resnet18", {"output_stride": 8}),
        ("cifar_resnet20", {"out_indices": (0, 1, 3), "output_stride": 2}),
        ("cifar_plain20", {}),
        ("wrn_16_8", {"out_indices": (0, 2, 3), "planes": (16, 24, 32)}),
        ("wrn_16_8", {"planes": (16, 24, 32), "shortcut": "A"}),
    ],
)
def test_maps_equal_the_plain_twins(name: str, options: dict[str, Any], training: bool) -> None:
    fused = randomise(models.create_model(name, features_only=True, **options)).double()
    fused.train(training)
    assert not fuse_report(fused).left, f"parts do not run fused:\n{fuse_report(fused)}"
    plain = unfuse(fused)
    assert [type(m) for m in fuse(plain).modules()] == [type(m) for m in fused.modules()]
    x = images(16)
    assert_same_pass(run_pass(Joined(fused), x), run_pass(Joined(plain), x))
    with torch.no_grad():
        maps = fused(x)
    assert len(maps) == len(fused.feature_info)
    for z, info in zip(maps, fused.feature_info, strict=True):
        assert z.shape == (2, info.channels, 16 // info.reduction, 16 // info.reduction)


def test_weights_are_the_classifiers_without_its_last_layer() -> None:
    torch.manual_seed(3)
    classifier = models.resnet18(num_classes=4)
    torch.manual_seed(3)
    features = models.create_model("resnet18", num_classes=4, features_only=True)
    expected = {k: v for k, v in classifier.state_dict().items() if not k.startswith("fc.")}
    assert list(features.state_dict()) == list(expected)
    for key, value in features.state_dict().items():
        assert torch.equal(value, expected[key]), (
            f"{key} differs from the classifier of the same seed"
        )
    with pytest.raises(RuntimeError, match=r"Unexpected.*fc\.weight.*fc\.bias"):
        features.load_state_dict(classifier.state_dict())


def test_the_max_pool_joins_the_stem_unless_its_activation_is_wanted() -> None:
    for indices in ((1,), (0, 1)):
        features = models.create_model("resnet18", features_only=True, out_indices=indices).eval()
        calls: list[BranchCall] = []
        with listening(calls.append), torch.no_grad():
            features(images().float())
        joined = calls[0].max_pool is not None
        assert joined == (0 not in indices), f"out_indices={indices}: {calls[0]}"


def test_stages_behind_the_last_index_do_not_run() -> None:
    features = models.create_model("resnet18", features_only=True, out_indices=(2,))
    features.layer3 = nn.Identity()
    features.layer3.register_forward_hook(lambda *_: pytest.fail("stage 3 ran"))
    (z,) = features(images(32).float())
    assert z.shape == (2, 128, 4, 4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_dilated_networks_maps_hold_the_strided_ones(name: str) -> None:
    strided = randomise(models.create_model(name, features_only=True)).double().eval()
    for output_stride in (8, 16):
        dilated = models.create_model(name, features_only=True, output_stride=output_stride)
        dilated.double().eval().load_state_dict(strided.state_dict())
        step = 32 // output_stride
        with torch.no_grad():
            fine, coarse = dilated(images(64))[-1], strided(images(64))[-1]
        assert_close(fine[:, :, ::step, ::step], coarse, f"output_stride={output_stride}")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet18", {"out_indices": (1,)}, "out_indices=\\(1,\\).*features_only"),
        ("resnet18", {"features_only": True, "out_indices": (3, 1)}, "ascending.*0.*to 4"),
        ("resnet18", {"features_only": True, "out_indices": (5,)}, "out_indices=\\(5,\\)"),
        ("resnet18", {"features_only": True, "out_indices": ()}, "out_indices=\\(\\)"),
        ("resnet18", {"output_stride": 12}, "output_stride=12: expected one of 4, 8, 16, 32"),
        ("cifar_resnet20", {"output_stride": 8}, "expected one of 1, 2, 4"),
        (
            "resnet50",
            {"output_stride": 8, "replace_stride_with_dilation": [False, False, True]},
            "output_stride=8 and replace",
        ),
    ],
)
def test_a_bad_option_is_named(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        models.create_model(name, **options)


@pytest.mark.parametrize(
    ("features", "network", "words"),
    [
        (models.ResNetFeatures, "wrn_16_8", "PreActResNet; expected a ResNet of"),
        (models.PreActResNetFeatures, "cifar_resnet20", "ResNet; expected a PreActResNet of"),
    ],
)
def test_a_network_without_defined_maps_is_refused(
    features: type[nn.Module], network: str, words: str
) -> None:
    with torch.device("meta"), pytest.raises(TypeError, match=words):
        features(models.create_model(network))


def test_the_last_map_of_a_preactivation_network_is_what_its_head_pools() -> None:
    options = {"planes": (16, 24, 32)}
    network = randomise(models.create_model("wrn_16_8", **options)).double().eval()
    features = models.create_model(
        "wrn_16_8", features_only=True, out_indices=ALL[:4], **options
    ).double()
    features.eval()
    weights = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    features.load_state_dict(weights, strict=True)
    with torch.no_grad():
        x = images(16)
        *others, last = features(x)
        assert_close(network.fc(last.mean((2, 3))), network(x), "logits from the last map")
        z = network.conv1(x)
        for i, (found, info) in enumerate(zip(others, features.feature_info, strict=False)):
            z = z if i == 0 else getattr(network, f"layer{i}")(z)
            assert_close(found, z, f"map {i}")
            assert found.shape == (2, info.channels, 16 // info.reduction, 16 // info.reduction)
