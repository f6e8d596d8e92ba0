"""A network's stem and its max-pool as one call: when they are, and that nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import _raw, explain, fuse, fuse_report, models, ops, reference, testing

FUSED = "conv_max_pool_sm80_few_channels"
pytestmark = pytest.mark.skipif(
    not _raw.is_built(), reason="the compiled extension is not built: make build"
)


def network(change: Callable[[nn.Module], object] = lambda network: None) -> nn.Module:
    torch.manual_seed(0)
    options = {"planes": (8,), "num_classes": 4, "stem": "imagenet"}
    plain = reference.ResNet(reference.BasicBlock, [1], **options).eval().to(torch.bfloat16)
    change(plain)
    return fuse(plain)


IMAGES = torch.randn(2, 3, 34, 30, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)


def launched(model: nn.Module, x: Tensor = IMAGES, *, grad: bool = False) -> list[str]:
    with testing.emulated() as emulator, torch.set_grad_enabled(grad):
        model(x)
        return [launch["kernel"] for launch in emulator.launches()]


def test_inference_pools_in_the_stems_kernel() -> None:
    kernels = launched(network())
    assert kernels[0] == FUSED
    assert not any("max_pool" in kernel for kernel in kernels[1:])


def test_logits_are_those_of_a_stem_that_is_pooled_apart() -> None:
    def hook(model: nn.Module) -> None:
        model.maxpool.register_forward_hook(lambda *_: None)

    with testing.emulated(), torch.no_grad():
        together, separate = network()(IMAGES), network(hook)(IMAGES)
    assert torch.equal(together, separate)


def test_training_and_gradients_run_two_ops() -> None:
    assert FUSED not in launched(network().train())
    assert FUSED not in launched(network(), grad=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.maxpool.register_forward_hook(lambda *_: None),
        lambda model: setattr(model, "maxpool", nn.AvgPool2d(3, 2, 1)),
        lambda model: setattr(model, "maxpool", nn.MaxPool2d(2, 2)),
        lambda model: setattr(model, "maxpool", nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
        lambda model: setattr(model, "maxpool", nn.MaxPool2d((3, 3), 2, 1)),
        lambda model: setattr(model, "maxpool", nn.Identity()),
        lambda model: setattr(model, "relu", nn.ReLU6()),
        lambda model: model.bn1.register_forward_hook(lambda *_: None),
    ],
    ids=["hook", "average", "2x2", "ceil", "pair", "none", "relu6", "hook on bn1"],
)
def test_other_stems_stay_as_they_are(change: Callable[[nn.Module], object]) -> None:
    assert FUSED not in launched(network(change))


def test_a_hook_on_the_pool_still_sees_its_input() -> None:
    model, seen = network(), []
    model.maxpool.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    launched(model)
    assert seen == [(2, model.conv1.out_channels, 17, 15)]


def test_reports_say_what_is_fused() -> None:
    (entry,) = [e for e in fuse_report(network()).fused if e.note.startswith("stem")]
    assert entry.note == "stem: conv1 + bn1 + relu + maxpool"
    apart = network(lambda model: setattr(model, "maxpool", nn.Identity()))
    (entry,) = [e for e in fuse_report(apart).fused if e.note.startswith("stem")]
    assert entry.note == "stem: conv1 + bn1 + relu"


def test_explain_names_the_kernel_and_counts_what_is_pooled() -> None:
    x = torch.zeros(4, 3, 224, 224, dtype=torch.bfloat16)
    model = models.resnet18().to(torch.bfloat16).eval()
    stem, after = explain(model, x).units[:2]
    (plan,) = stem.passes
    assert stem.operation == "conv + bn + relu + max_pool"
    assert stem.output == after.input == (4, 64, 56, 56)
    assert plan.kernel == FUSED and plan.tile == (256, 64, 32)
    assert plan.flops == 2 * 4 * 112 * 112 * 64 * 147
    assert plan.bytes == 2 * (x.numel() + 64 * 147 + 4 * 56 * 56 * 64)
    for other in (explain(model, x, training=True), explain(model.float(), x.float())):
        assert other.units[0].operation == "conv + bn + relu"
        assert other.units[0].output == (4, 64, 112, 112)
    vectors = [torch.ones(64)] * 4
    weight = torch.zeros(64, 3, 7, 7, dtype=torch.bfloat16)
    (unit,) = explain(ops.conv_bn_relu_max_pool2d, x, weight, *vectors, stride=2, padding=3).units
    assert unit.passes[0].kernel == FUSED


def test_torchvisions_stem(torchvision_models: ModuleType) -> None:
    model = fuse(torchvision_models.resnet18(num_classes=3)).to(torch.bfloat16).eval()
    assert launched(model, IMAGES[:1])[0] == FUSED


def test_timms_stem(timm: ModuleType) -> None:
    model = fuse(timm.create_model("resnet18", num_classes=3)).to(torch.bfloat16).eval()
    assert launched(model, IMAGES[:1])[0] == FUSED
