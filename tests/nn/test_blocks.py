"""Fused residual blocks against their plain twins."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from resnet_cuda import nn as fused_nn
from resnet_cuda import reference
from tests.networks import assert_close, assert_same_pass, make_adversarial, randomise, run_pass

BLOCKS = {
    "basic identity": ("BasicBlock", (16, 16), {}),
    "basic projection": ("BasicBlock", (8, 16, 2), {}),
    "basic option A": ("BasicBlock", (8, 16, 2), {"shortcut": "A"}),
    "basic option C": ("BasicBlock", (8, 8), {"shortcut": "C"}),
    "basic plain": ("BasicBlock", (8, 16, 2), {"shortcut": "none"}),
    "basic dilated": ("BasicBlock", (8, 8), {"dilation": 2}),
    "bottleneck identity": ("Bottleneck", (32, 8), {}),
    "bottleneck projection": ("Bottleneck", (12, 4, 2), {}),
    "bottleneck widening": ("Bottleneck", (12, 4), {}),
    "bottleneck option A": ("Bottleneck", (12, 4, 2), {"shortcut": "A"}),
    "bottleneck option C": ("Bottleneck", (16, 4), {"shortcut": "C"}),
    "bottleneck plain": ("Bottleneck", (12, 4, 2), {"shortcut": "none"}),
    "bottleneck v1 stride": ("Bottleneck", (12, 4, 2), {"stride_in_1x1": True}),
    "bottleneck grouped": ("Bottleneck", (16, 8, 2), {"groups": 4, "base_width": 16}),
    "bottleneck dilated": ("Bottleneck", (16, 4), {"dilation": 2}),
    "bottleneck no affine": (
        "Bottleneck",
        (16, 4),
        {"norm_layer": lambda c: nn.BatchNorm2d(c, affine=False)},
    ),
    "bottleneck no running": (
        "Bottleneck",
        (16, 4, 2),
        {"norm_layer": lambda c: nn.BatchNorm2d(c, track_running_stats=False)},
    ),
    "basic cumulative": (
        "BasicBlock",
        (8, 8),
        {"norm_layer": lambda c: nn.BatchNorm2d(c, momentum=None)},
    ),
}


def twins(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """(plain, fused) with the same weights."""
    cls, arguments, options = BLOCKS[name]
    plain = getattr(reference, cls)(*arguments, **options)
    fused = getattr(fused_nn, cls)(*arguments, **options)
    randomise(plain)
    fused.load_state_dict(plain.state_dict())
    assert fused.blocker() is None, f"the fused path is off: {fused.blocker()}"
    return plain.to(dtype), fused.to(dtype)


def images(block: nn.Module, n: int = 3, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(n, block.conv1.in_channels, 7, 6, dtype=dtype)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_its_plain_twin(
    name: str, training: bool, layout: torch.memory_format
) -> None:
    plain, fused = twins(name)
    x = images(plain).to(memory_format=layout)
    plain.train(training)
    fused.train(training)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))
    with torch.no_grad():
        assert_close(fused(x), plain(x), "output without gradients")


@pytest.mark.parametrize("name", ["basic projection", "bottleneck identity"])
def test_block_keeps_the_tolerance_rule_in_fp32(name: str) -> None:
    plain, fused = twins(name, torch.float32)
    x = images(plain, dtype=torch.float32)
    exact = run_pass(copy.deepcopy(plain).double(), x.double())
    assert_same_pass(run_pass(fused, x), run_pass(plain, x), exact)


@pytest.mark.parametrize("name", ["basic projection", "bottleneck projection"])
def test_block_equals_its_plain_twin_with_adversarial_weights(name: str) -> None:
    plain, fused = twins(name)
    make_adversarial(plain)
    fused.load_state_dict(plain.state_dict())
    for training in (True, False):
        plain.train(training)
        fused.train(training)
        x = images(plain)
        assert_same_pass(run_pass(fused, x), run_pass(plain, x))


@pytest.mark.parametrize("name", BLOCKS)
def test_state_dict_loads_both_ways(name: str) -> None:
    plain, fused = twins(name)
    assert list(plain.state_dict()) == list(fused.state_dict())
    plain.load_state_dict(fused.state_dict(), strict=True)
    fused.load_state_dict(plain.state_dict(), strict=True)


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        ("BasicBlock", {"groups": 2}, "groups=2"),
        ("BasicBlock", {"base_width": 128}, "base_width=128"),
        ("BasicBlock", {"shortcut": "D"}, "shortcut='D'"),
        ("Bottleneck", {"shortcut": "b"}, "shortcut='b'"),
    ],
)
def test_unknown_options_are_named(cls: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        getattr(fused_nn, cls)(8, 8, **options)


def test_zero_pad_shortcut_refuses_to_drop_channels() -> None:
    with pytest.raises(ValueError, match="out_channels=4"):
        fused_nn.BasicBlock(8, 4, shortcut="A")


def _hook_conv(block: nn.Module) -> None:
    block.conv1.register_forward_hook(lambda module, args, output: output * 0.5)


def _hook_relu(block: nn.Module) -> None:
    block.relu.register_forward_hook(lambda module, args, output: output + 1.0)


def _pre_hook_bn(block: nn.Module) -> None:
    block.bn2.register_forward_pre_hook(lambda module, args: (args[0] * 2.0,))


def _parametrise(block: nn.Module) -> None:
    class Double(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2.0 * weight

    parametrize.register_parametrization(block.conv2, "weight", Double())


def _prune(block: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(2, block.conv1.weight.shape, generator=generator).double()
    prune.custom_from_mask(block.conv1, "weight", mask)


def _add_bias(block: nn.Module) -> None:
    conv = block.conv1
    block.conv1 = nn.Conv2d(conv.in_channels, conv.out_channels, 1, dtype=torch.float64)
    nn.init.constant_(block.conv1.weight, 0.1)
    nn.init.constant_(block.conv1.bias, 0.3)


def _reflect(block: nn.Module) -> None:
    block.conv2.padding_mode = "reflect"
    block.conv2._reversed_padding_repeated_twice = [1, 1, 1, 1]


def _string_padding(block: nn.Module) -> None:
    block.conv2.padding = "same"


def _other_activation(block: nn.Module) -> None:
    block.relu = nn.GELU()


def _other_norm(block: nn.Module) -> None:
    block.bn3 = nn.GroupNorm(2, block.bn3.num_features, dtype=torch.float64)


def _patched_forward(block: nn.Module) -> None:
    original = block.conv3.forward
    block.conv3.forward = lambda x: -original(x)


def _long_downsample(block: nn.Module) -> None:
    block.downsample.append(nn.Tanh())


@pytest.mark.parametrize(
    "change",
    [
        _hook_conv,
        _hook_relu,
        _pre_hook_bn,
        _parametrise,
        _prune,
        _add_bias,
        _reflect,
        _string_padding,
        _other_activation,
        _other_norm,
        _patched_forward,
        _long_downsample,
    ],
)
def test_changed_children_still_run(change: object) -> None:
    plain, fused = twins("bottleneck widening")
    change(plain)
    change(fused)
    assert fused.blocker() is not None, "the block did not notice the change"
    for training in (True, False):
        plain.train(training)
        fused.train(training)
        x = images(plain)
        # Copies would lose lambdas' identity, so the blocks run directly.
        assert_close(fused(x), plain(x), "output")


def test_converted_sync_batch_norm_stays_fused() -> None:
    plain, fused = twins("bottleneck projection")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    assert isinstance(converted.bn1, nn.SyncBatchNorm)
    assert converted.blocker() is None, converted.blocker()
    for training in (True, False):
        x = images(plain)
        assert_same_pass(run_pass(converted.train(training), x), run_pass(plain.train(training), x))


def test_a_hooked_sync_batch_norm_runs_on_its_own() -> None:
    _, fused = twins("bottleneck projection")
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    converted.bn1.register_forward_hook(lambda *_: None)
    assert converted.blocker() == "bn1 has hooks"


def test_batches_are_counted_as_torch_counts_them() -> None:
    plain, fused = twins("bottleneck projection")
    for block in (plain, fused):
        block.train()
        for _ in range(3):
            block(images(plain))
        block.eval()(images(plain))
    for (name, a), (_, b) in zip(fused.named_buffers(), plain.named_buffers(), strict=True):
        if name.endswith("num_batches_tracked"):
            assert a.item() == b.item() == 3, name


def test_an_empty_batch_leaves_all_statistics_untouched() -> None:
    _, fused = twins("bottleneck projection")
    before = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    fused.train()
    out = fused(images(fused, n=0))
    assert out.shape == (0, 16, 4, 3)
    out.sum().backward()
    for name, buffer in fused.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_frozen_batch_norm_inside_training() -> None:
    plain, fused = twins("bottleneck projection")
    for block in (plain, fused):
        block.train()
        block.bn2.eval()
        block.downsample[1].eval()
        block.conv1.weight.requires_grad_(False)
    x = images(plain)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))


def test_hooks_on_the_block_run() -> None:
    _, fused = twins("basic identity")
    seen: list[tuple[int, ...]] = []
    fused.register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    fused.register_full_backward_hook(lambda module, grads_in, grads_out: seen.append(()))
    fused(images(fused).requires_grad_()).sum().backward()
    assert seen == [(3, 16, 7, 6), ()]
