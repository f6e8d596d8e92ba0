"""Modules of unknown classes: which runs of their own forward are fused, and that this never changes a result."""

from __future__ import annotations

import copy
import pickle
import random
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda import fuse, unfuse
from resnet_cuda.nn import fused_forward
from resnet_cuda.nn._fused import is_swapped
from tests.networks import assert_close, assert_same_pass, randomise, run_pass

CHANNELS = 4


class Parts(nn.Module):
    """Two convolutions with batch norms, and what the forwards below need."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.identity = nn.Identity()
        self.shift = nn.Parameter(torch.full((1, CHANNELS, 1, 1), 0.5))
        self.adds = True
        self.scales = (1.0, 2.0)


class Block(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = self.relu(self.bn1(self.conv1(x)))
        z = self.identity(self.bn2(self.conv2(z)))
        z += x
        return self.relu(z)


class Functional(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return torch.add(x, self.bn2(self.conv2(z))).relu_() * self.scales[1]


class ConvolutionBeforeItsShortcut(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = self.bn2(self.conv2(x))
        return self.relu(z + self.bn1(self.conv1(x.tanh())))


class Switched(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = self.bn1(self.conv1(x))
        return self.relu(z + x) if self.adds else self.relu(z)


class Broadcast(Parts):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return self.relu(self.bn1(self.conv1(x)) + mean)


class Shifted(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)) + self.shift)


class LooksTwice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        return self.bn1(y) + y


class ReadTwice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = self.bn1(self.conv1(x))
        return self.relu(z + x) + z.detach()


class AddsIntoTheOther(Parts):
    def forward(self, x: Tensor) -> Tensor:
        other = x * 1.0
        kept = other.view(-1)
        other += self.bn1(self.conv1(x))
        return self.relu(other) + kept.view_as(x)


class CalledTwice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn1(self.conv1(x)))


TWO = ["conv1 + bn1 + relu, conv2 + bn2 + add + relu"]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        (Block, TWO),
        (Functional, TWO),
        # conv2 may not wait: x could change before the sum.
        (ConvolutionBeforeItsShortcut, ["conv2 + bn2, conv1 + bn1 + add + relu"]),
        (Switched, ["conv1 + bn1 + add + relu"]),
        (Broadcast, ["conv1 + bn1 + add + relu"]),
        (Shifted, ["conv1 + bn1 + add + relu"]),
        (LooksTwice, []),
        (ReadTwice, ["conv1 + bn1"]),
        (AddsIntoTheOther, ["conv1 + bn1"]),
        (CalledTwice, []),
    ],
)
def test_a_forward_gives_the_same_fused(
    kind: type[Parts], notes: list[str], training: bool
) -> None:
    plain = randomise(kind()).double().train(training)
    fused = fuse(plain)
    assert [e.note for e in fuse.report.fused] == [f"forward: {note}" for note in notes], str(
        fuse.report
    )
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
    with torch.no_grad():
        assert_close(fused(images()), plain(images()), "output without gradients")


class InputChangesBehindTheConvolution(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        y = self.conv1(x)
        x.mul_(2.0)
        return self.relu(self.bn1(y) + x)


def test_a_convolution_reads_its_input_before_that_changes() -> None:
    plain = randomise(InputChangesBehindTheConvolution()).double().eval()
    fused = fuse(plain)
    assert [e.note for e in fuse.report.fused] == ["forward: conv1 + bn1"]
    with torch.no_grad():
        assert_close(fused(images()), plain(images()), "output")


def images() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, CHANNELS, 5, 6, generator=generator, dtype=torch.float64)


class AsksForAType(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) if isinstance(x, Tensor) else x


class AsksForNothing(Parts):
    def forward(self, x: Tensor) -> Tensor:
        mask = None if x is None else x
        return self.bn1(self.conv1(mask))


class TakesMore(Parts):
    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        z = self.bn1(self.conv1(x))
        return z if gain is None else z * gain


class TossesACoin(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) * (1.0 if random.random() < 0.5 else 2.0)


class Counts(Parts):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.bn1(self.conv1(x))


class SetsAnOutput(Parts):
    def forward(self, x: Tensor) -> Tensor:
        z = self.bn1(self.conv1(x))
        z.mine = 1
        return z


class ReturnsADictionary(Parts):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.bn1(self.conv1(x))}


class HasAContext(Parts):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.bn1(self.conv1(x))


class DecidesByShape(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) if x.shape[0] > 1 else x


class DecidesByAChild(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) if self.conv2.in_channels > 1 else x


class DependsOnGradientMode(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x)) if torch.is_grad_enabled() else x


class Decorated(Parts):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(x))


def _checks(x: Tensor) -> Tensor:
    return x if type(x) is Tensor else x * 2.0


class AsksElsewhere(Parts):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn1(self.conv1(_checks(x)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (AsksForAType, r"asks `isinstance\(x, Tensor\)`"),
        (AsksForNothing, "asks `x is None`"),
        (TakesMore, "takes 2 arguments"),
        (TossesACoin, "draws random numbers"),
        (Counts, "sets `self.calls`|changes attributes"),
        (HasAContext, "`with` statement"),
        (SetsAnOutput, "sets `z.mine`"),
        (ReturnsADictionary, "returns a dictionary"),
        (DecidesByShape, "torch.fx cannot follow"),
        (DecidesByAChild, "reads `self.conv2.in_channels`"),
        (DependsOnGradientMode, "depends on is_grad_enabled"),
        (Decorated, "is decorated"),
        (AsksElsewhere, r"asks `type\(x\) is Tensor`"),
    ],
)
def test_a_forward_that_a_trace_cannot_know_is_left_and_named(
    kind: type[Parts], reason: str
) -> None:
    module = kind()
    before = set(module.__dict__)
    fuse(module, inplace=True)
    assert not fuse.report.fused and type(module) is kind and set(module.__dict__) == before
    notes = {e.path: e.note for e in fuse.report.left}
    assert re.search(reason, notes["conv1"]), notes["conv1"]


def test_a_changed_attribute_changes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = randomise(Switched()).double().eval()
    fused = fuse(plain)

    def traced(*_: object) -> None:
        pytest.fail("a call must not trace: torch.fx changes nn.Module for all threads meanwhile")

    monkeypatch.setattr(fused_forward, "trace_forward", traced)
    for adds in (True, False, True):
        plain.adds = fused.adds = adds
        assert_close(fused(images()), plain(images()), f"output with adds={adds}")


class Drops(Parts):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.dropout(self.bn1(self.conv1(x))) + x)


def test_dropout_is_nothing_only_while_it_evaluates() -> None:
    plain = randomise(Drops()).double().eval()
    fused = fuse(plain)
    assert fuse.report.fused[0].note == "forward: conv1 + bn1 + add + relu"
    for mode, part in ((False, False), (False, True), (True, True), (True, False)):
        outputs = []
        for block in (fused, plain):
            block.train(mode)
            block.dropout.train(part)
            torch.manual_seed(2)
            outputs.append(block(images()))
        assert_close(*outputs, f"output with training={mode}, dropout.training={part}")


def replace_norm(block: Parts) -> None:
    block.bn1 = nn.BatchNorm2d(CHANNELS, eps=0.5).double()


def replace_activation(block: Parts) -> None:
    block.relu = nn.SiLU()


def hook_a_norm(block: Parts) -> None:
    block.bn2.register_forward_hook(lambda module, args, output: output * 2)


def hook_a_convolution(block: Parts) -> None:
    block.conv1.register_forward_hook(lambda module, args, output: output + 1)


def hook_an_activation(block: Parts) -> None:
    block.relu.register_forward_hook(lambda module, args, output: output * 2)


def hook_an_identity(block: Parts) -> None:
    block.identity.register_forward_hook(lambda module, args, output: output * 2)


@pytest.mark.parametrize(
    "change",
    [
        *(replace_norm, replace_activation, hook_a_norm),
        *(hook_a_convolution, hook_an_activation, hook_an_identity),
    ],
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_changed_child_changes_the_result(
    change: Callable[[Parts], None], training: bool
) -> None:
    plain = randomise(Block()).double().train(training)
    fused = fuse(plain)
    run_pass(fused, images())
    fused(images()), plain(images())
    for block in (plain, fused):
        change(block)
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
    # run_pass makes copies, whose forwards are followed anew.
    assert_close(fused(images()), plain(images()), "output of the module itself")


def test_hooked_and_shared_children_are_left_and_named() -> None:
    hooked, shared = Block(), Block()
    hooked.conv1.register_forward_hook(lambda module, args, output: None)
    other, parametrized = Block(), Block()
    other.conv1 = shared.conv1
    nn.utils.parametrizations.weight_norm(parametrized.conv1)
    fused = fuse(nn.ModuleList([hooked, shared, other, parametrized]))
    left = {e.path: e.note for e in fuse.report.left}
    assert left["0.conv1"] == "has hooks"
    assert "1.conv1 is shared with 2.conv1" in left["1.conv2"]
    assert "ParametrizedConv2d" in left["3.conv1"] and "3.conv2" not in left
    assert is_swapped(fused[0]) and not is_swapped(fused[1]) and not is_swapped(fused[2])


def test_copies_pickles_and_unfused_modules_are_whole() -> None:
    plain = randomise(Block()).double()
    fused = fuse(plain)
    expected = run_pass(plain, images())
    assert list(fused.state_dict()) == list(plain.state_dict())
    fused(images())
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), fuse(fused)):
        assert type(twin) is type(fused)
        twin.load_state_dict(plain.state_dict())
        assert_same_pass(run_pass(twin, images()), expected)
    back = unfuse(fused)
    assert type(back) is Block and set(back.__dict__) == set(plain.__dict__)


def test_folded_weights_follow_their_convolution() -> None:
    plain = randomise(Block()).eval()
    fused = fuse(plain)
    with torch.no_grad():
        fused(images().float())
        for block in (plain, fused):
            block.conv1.weight *= 3.0
        torch.testing.assert_close(fused(images().float()), plain(images().float()))


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compile_export_and_tracing(training: bool) -> None:
    plain = randomise(Block()).double().train(training)
    expected = copy.deepcopy(plain)(images())
    fused = fuse(plain)
    compiled = torch.compile(copy.deepcopy(fused), fullgraph=True, backend="aot_eager")
    assert_close(compiled(images()), expected, "compiled output")
    traced = torch.fx.symbolic_trace(fused)
    assert {n.target for n in traced.graph.nodes if n.op == "call_module"} >= {"conv1", "bn2"}
    if not training:
        exported = torch.export.export(fused, (images(),)).module()
        assert_close(exported(images()), expected, "exported output")


def test_under_autocast_the_sum_has_torchs_dtype() -> None:
    plain = randomise(Block()).eval()
    x = images().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actual, expected = fuse(plain)(x), plain(x)
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.1)
