"""The container that owns what flows between its children."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from resnet_cuda import fuse, ops, reference
from resnet_cuda import nn as fused_nn
from tests.networks import assert_close, assert_same_pass, randomise, run_pass


def make_stage(blocks: int = 4) -> tuple[nn.Sequential, fused_nn.FusedStage]:
    """(plain, fused), the fused one in channels_last, where the CPU adds in place."""
    stage = nn.Sequential(
        reference.Bottleneck(8, 4), *(reference.Bottleneck(16, 4) for _ in range(blocks - 1))
    )
    randomise(stage).eval()
    fused = fuse(stage).to(memory_format=torch.channels_last)
    assert type(fused) is fused_nn.FusedStage
    return stage, fused


def make_input() -> torch.Tensor:
    return torch.randn(2, 8, 6, 6).to(memory_format=torch.channels_last)


def test_stage_equals_a_sequential_at_inference() -> None:
    plain, fused = make_stage()
    x = make_input()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)


def test_stage_equals_a_sequential_in_training() -> None:
    plain, fused = make_stage()
    plain, fused = plain.double().train(), fused.double().train()
    x = make_input().double()
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))


def donations(stage: fused_nn.FusedStage, x: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> list:
    seen = []
    original = fused_nn.Bottleneck.run_fused

    def spy(self, x, donate_input=False):
        seen.append(donate_input)
        return original(self, x, donate_input)

    monkeypatch.setattr(fused_nn.Bottleneck, "run_fused", spy)
    stage(x)
    return seen


def test_only_what_the_stage_owns_is_donated(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = make_stage()
    x = make_input()
    with torch.no_grad():
        before = x.clone()
        assert donations(fused, x, monkeypatch) == [False, True, True, True]
        assert torch.equal(x, before), "the caller's tensor was overwritten"


def test_nothing_is_donated_where_gradients_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fused = make_stage()
    assert not any(donations(fused, make_input(), monkeypatch))
    with torch.no_grad():
        assert not any(donations(fused.train(), make_input(), monkeypatch))


@pytest.mark.parametrize("where", ["block", "child"])
def test_what_a_hook_keeps_is_not_overwritten(where: str) -> None:
    plain, fused = make_stage()
    kept: list[torch.Tensor] = []
    for stage in (plain, fused):
        target = stage[1] if where == "block" else stage[1].relu
        target.register_forward_hook(lambda module, args, output: kept.append(output))
    x = make_input()
    with torch.no_grad():
        plain(x)
        count = len(kept)
        fused(x)
    assert len(kept) == 2 * count, "a hook did not run"
    # The plain block's relu runs in place three times on different tensors; the last one is its output.
    torch.testing.assert_close(kept[-1], kept[count - 1], rtol=1e-4, atol=1e-5)


def test_what_a_global_hook_keeps_is_not_overwritten() -> None:
    plain, fused = make_stage()
    kept: dict[type, list[torch.Tensor]] = {}
    x = make_input()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: kept.setdefault(type(module), []).append(output)
    )
    try:
        with torch.no_grad():
            plain(x)
            fused(x)
    finally:
        handle.remove()
    pairs = zip(kept[fused_nn.Bottleneck], kept[reference.Bottleneck], strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_block_in_training_mode_inside_an_eval_stage() -> None:
    plain, fused = make_stage()
    for stage in (plain, fused):
        stage[2].train()
    x = make_input()
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        fused[2].bn1.running_mean, plain[2].bn1.running_mean, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_conv_runs_equal_a_sequential(training: bool) -> None:
    plain = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Conv2d(6, 6, 3, padding="same", bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    )
    plain = randomise(plain).double().train(training)
    fused = fuse(plain)
    assert fuse_notes(fused) == "2 conv + bn (+ relu) runs"
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    assert_same_pass(run_pass(fused, x), run_pass(plain, x))
    with torch.no_grad():
        assert_close(fused(x), plain(x), "output without gradients")


def fuse_notes(model: nn.Module) -> str:
    from resnet_cuda import fuse_report

    return fuse_report(model).fused[0].note


def test_slicing_and_copying_a_stage() -> None:
    plain, fused = make_stage()
    x = make_input()
    with torch.no_grad():
        torch.testing.assert_close(fused[:2](x), plain[:2](x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(fused)(x), plain(x), rtol=1e-4, atol=1e-5)


def test_a_donated_input_that_is_also_convolved_stays_whole() -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last)
    vector = torch.ones(8)

    def unit(folded: ops.FoldedConv | None) -> ops.ConvUnit:
        weight = conv.weight.detach()
        return ops.ConvUnit(
            weight, None, None, vector, vector, padding=(1, 1), relu=False, folded=folded
        )

    x = make_input()
    with torch.no_grad():
        expected = ops.residual_branch(x, [unit(None)], ops.Identity())
        actual = ops.residual_branch(
            x.clone(), [unit(ops.FoldedConv())], ops.Identity(), donate_input=True
        )
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
