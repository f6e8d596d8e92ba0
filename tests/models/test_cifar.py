"""Networks for small images: with shortcut A, plain and pre-activated ones against their unfused twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from resnet_cuda import explain, fuse, fuse_report, models, unfuse
from tests.networks import assert_close, assert_same_pass, randomise, run_pass

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: models.cifar_resnet(14),
    "plain": lambda: models.cifar_plain(14),
    "plain bottlenecks": lambda: models.resnet50(
        shortcut="none", stem="cifar", planes=(4, 8, 12, 16), num_classes=10
    ),
    "wide": lambda: models.wide_resnet(16, 2),
    "wide, option A": lambda: models.wide_resnet(10, 1, shortcut="A"),
}


def images(n: int = 2, pixels: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 3, pixels, pixels, generator=generator, dtype=torch.float64)
    return x.to(memory_format=torch.channels_last)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_equals_its_plain_twin(
    backend: str, device: str, name: str, training: bool
) -> None:
    fused = randomise(NETWORKS[name]()).double().to(device).train(training)
    assert not fuse_report(fused).left, f"parts do not run fused:\n{fuse_report(fused)}"
    plain = unfuse(fused)
    x = images().to(device)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))
    with torch.no_grad():
        assert_close(fused(x), plain(x), "output without gradients")


def test_fusing_a_plain_wide_network_restores_its_classes() -> None:
    fused = models.wide_resnet(10, 1)
    plain = unfuse(fused)
    assert [type(m) for m in fuse(plain).modules()] == [type(m) for m in fused.modules()]


def test_dropout_works_between_the_convolutions_in_training_alone() -> None:
    model = models.wide_resnet(10, 1, dropout=0.5).double()
    plain = unfuse(model)
    x = images()
    model.eval(), plain.eval()
    assert_close(model(x), plain(x), "output in evaluation mode")
    model.train(), plain.train()
    torch.manual_seed(5)
    dropped = model(x)
    torch.manual_seed(5)
    assert_close(dropped, plain(x), "output of the same draws")
    assert not torch.equal(model(x), dropped), "two draws gave the same output"


def test_a_foreign_block_adds_nothing_without_shortcut() -> None:
    class Foreign(nn.Module):
        def __init__(
            self, inplanes: int, planes: int, stride: int, downsample: nn.Module, *_: object
        ) -> None:
            super().__init__()
            self.conv = nn.Conv2d(inplanes, planes, 3, stride, 1)
            self.downsample = downsample

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + self.downsample(x)

    model = models.ResNet(Foreign, [1, 1], 2, planes=(4, 8), stem="cifar", shortcut="none").double()
    x = images()
    z = torch.relu(model.bn1(model.conv1(x)))
    expected = model.layer2[0].conv(model.layer1[0].conv(z))
    assert_close(model.layer2(model.layer1(z)), expected, "stages")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: models.cifar_resnet(21), "depth=21: expected 6n \\+ 2.*20 or 26"),
        (lambda: models.cifar_resnet(2), "depth=2: expected 6n \\+ 2"),
        (lambda: models.cifar_plain(18), "depth=18"),
        (lambda: models.wide_resnet(29, 10), "depth=29: expected 6n \\+ 4.*28 or 34"),
        (lambda: models.wide_resnet(28, 0), "width=0"),
        (lambda: models.wide_resnet(28, 1, dropout=1.5), "1.5"),
        (lambda: models.wide_resnet(10, 1, shortcut="D"), "shortcut='D'.*none"),
        (lambda: models.wide_resnet(10, 1, planes=(8, 16)), "planes=\\(8, 16\\)"),
        (lambda: models.plain18(zero_init_residual=True), "zero_init_residual=True.*'none'"),
    ],
)
def test_a_bad_argument_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        make()


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_explain_tells_of_the_stem_and_of_blocks_that_add_nothing(training: bool) -> None:
    units = {
        u.name: u
        for u in explain(models.wide_resnet(10, 1), images().float(), training=training).units
    }
    passes = [p.name for p in units["conv1"].passes]
    assert units["conv1"].operation == "conv"
    assert ("wgrad" in passes) == training, f"the first convolution's passes are {passes}"
    plain = explain(models.cifar_plain(8), images().float(), training=training).units
    assert {u.operation for u in plain} == {"conv + bn + relu"}
