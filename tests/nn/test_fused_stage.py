"""The container that owns what flows between its children."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from resnet_cuda import _raw, _selection, fuse, ops, reference
from resnet_cuda import nn as fused_nn
from resnet_cuda.testing import emulated
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
    original = fused_nn.Bottleneck.run_chained

    def spy(self, x, donate_input=False, *others):
        seen.append(donate_input)
        return original(self, x, donate_input, *others)

    monkeypatch.setattr(fused_nn.Bottleneck, "run_chained", spy)
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


def make_wide_stage(projects: bool = False, width: int = 64) -> fused_nn.FusedStage:
    """Four bottlenecks in 16 bits of as many channels as one kernel takes; the first one may project."""
    shortcut = nn.Sequential(nn.Conv2d(64, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width))
    first = (
        reference.Bottleneck(64, width, downsample=shortcut)
        if projects
        else reference.Bottleneck(4 * width, width)
    )
    stage = nn.Sequential(first, *(reference.Bottleneck(4 * width, width) for _ in range(3)))
    randomise(stage).eval()
    return fuse(stage).to(torch.bfloat16, memory_format=torch.channels_last)


def wide_input(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 5, 6).bfloat16().to(memory_format=torch.channels_last)


def run_on_kernels(
    stage: nn.Module, x: torch.Tensor, **gpu: object
) -> tuple[torch.Tensor, list[dict]]:
    with emulated(**gpu) as emulation, torch.no_grad():
        return stage(x), emulation.launches()


def kernels(launches: list[dict]) -> list[str]:
    """Without what they have in common."""
    names = [launch["kernel"].removesuffix("_gemm") for launch in launches]
    return [name.replace("_sm90", "").removeprefix("bottleneck_") for name in names]


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_a_bottleneck_begins_the_next_one_in_its_last_launch() -> None:
    fused = make_wide_stage()
    launches = run_on_kernels(fused, wide_input(256))[1]
    inner = ["conv_fprop_im2col", "expand_reduce"]
    assert kernels(launches) == ["reduce", *3 * inner, "conv_fprop_im2col", "expand"]


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_a_block_behind_a_projection_begins_on_its_own() -> None:
    launches = run_on_kernels(make_wide_stage(projects=True), wide_input(64))[1]
    assert [name for name in kernels(launches) if "conv" not in name][1:] == [
        *("expand_project", "reduce"),
        *("expand_reduce", "expand_reduce", "expand"),
    ]


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
@pytest.mark.parametrize("projects", [False, True], ids=["identity", "projection"])
def test_handing_over_changes_no_bit(projects: bool) -> None:
    fused = make_wide_stage(projects)
    x = wide_input(64 if projects else 256)
    before = x.clone()
    actual, _ = run_on_kernels(fused, x)
    assert torch.equal(x, before), "the caller's tensor was overwritten"
    for block in fused:
        x, launches = run_on_kernels(block, x)
        assert "expand_reduce" not in kernels(launches)
    assert torch.equal(actual, x), "the stage's blocks give other bits one by one"


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
@pytest.mark.parametrize("projects", [False, True], ids=["identity", "projection"])
def test_a_whole_block_is_one_launch_where_there_is_such_a_kernel(projects: bool) -> None:
    """And has the bits of the launches that it stands for, which also hand over from block to block."""
    fused = make_wide_stage(projects)
    x = torch.randn(1, 64 if projects else 256, 8, 24).bfloat16()
    before = x.clone()
    actual, launches = run_on_kernels(fused, x)
    assert torch.equal(x, before), "the caller's tensor was overwritten"
    blocks = kernels(launches)
    assert blocks[-3:] == 3 * ["block_halo"]
    assert (blocks[0] == "block_halo") is not projects
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_selection, "has_block_kernel", lambda *_: False)
        expected, launches = run_on_kernels(fused, x)
    assert kernels(launches).count("expand_reduce") == (2 if projects else 3)
    assert torch.equal(actual, expected)


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_a_block_is_one_launch_only_where_nobody_looks_and_nothing_is_trained() -> None:
    x = torch.randn(1, 256, 8, 24).bfloat16()

    def whole(stage: nn.Module, x: torch.Tensor = x, **gpu: object) -> int:
        return kernels(run_on_kernels(stage, x, **gpu)[1]).count("block_halo")

    hooked = make_wide_stage()
    hooked[1].conv2.register_forward_hook(lambda module, args, output: None)
    assert whole(hooked) == 3, "a block whose child is hooked runs it itself"
    trained = make_wide_stage()
    trained[3].bn2.train()
    assert whole(trained) == 3
    assert whole(make_wide_stage(), capability=(8, 0)) == 0
    assert whole(make_wide_stage(), x[..., :16]) == 0, "strips are three quarters full"
    assert whole(make_wide_stage()[0]) == 1, "a block alone, too"


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_what_is_handed_over_is_stored_once_and_not_read_back() -> None:
    fused, x = make_wide_stage(), wide_input(256)
    with emulated(count=True) as emulation, torch.no_grad():
        fused(x)
        launches = list(emulation.launches())
    stored = [launch["tensors"] for launch in launches if "expand_reduce" in launch["kernel"]]
    assert len(stored) == 3
    for tensors in stored:
        assert tensors["y"] == (0, x.nbytes), "y is stored once, and not read"
        assert tensors["residual"] == (x.nbytes, 0), "the shortcut is read once"


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
def test_nothing_is_handed_over_where_somebody_may_look() -> None:
    x = wide_input(256)

    def hands_over(stage: nn.Module, **gpu: object) -> int:
        return kernels(run_on_kernels(stage, x, **gpu)[1]).count("expand_reduce")

    hooked = make_wide_stage()
    hooked[2].register_forward_hook(lambda module, args, output: None)
    assert hands_over(hooked) == 1, "what enters or leaves a block with hooks is whole"
    hooked_child = make_wide_stage()
    hooked_child[2].conv1.register_forward_hook(lambda module, args, output: None)
    assert hands_over(hooked_child) == 1, "a block whose child is hooked runs it itself"
    assert hands_over(make_wide_stage(), capability=(8, 0)) == 0
    assert hands_over(make_wide_stage()) == 3


@pytest.mark.skipif(not _raw.is_built(), reason="the extension is not built")
@pytest.mark.parametrize("name", ["bn1", "bn2", "bn3"])
def test_a_block_that_is_trained_in_part_begins_on_its_own(name: str) -> None:
    fused = make_wide_stage()
    norm = getattr(fused[2], name).train()
    x = wide_input(256)
    launches = run_on_kernels(fused, x)[1]
    assert norm.num_batches_tracked == 1, "each batch counts once"
    assert kernels(launches).count("expand_reduce") == 1, "only the first block hands over"
