"""What `fuse` recognises, what it leaves, what survives it, and how it is undone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from resnet_cuda import fuse, fuse_report, models, reference, unfuse
from resnet_cuda import nn as fused_nn
from tests.networks import assert_close, assert_same_pass, randomise, run_pass


def make_network(**options: object) -> nn.Module:
    network = reference.ResNet(
        reference.BasicBlock, [1, 2], num_classes=5, planes=(4, 8), stem="cifar", **options
    )
    return randomise(network).double().eval()


def images(n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)


def test_the_reference_network_round_trips() -> None:
    plain = make_network()
    fused = fuse(plain)
    assert type(fused) is models.ResNet
    assert type(fused.layer1) is fused_nn.FusedStage
    assert type(fused.layer1[0]) is fused_nn.BasicBlock
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
    back = unfuse(fused)
    assert [type(m) for m in back.modules()] == [type(m) for m in plain.modules()]
    assert torch.equal(back(images()), plain(images()))
    own = models.resnet18()
    assert type(unfuse(own)) is reference.ResNet
    again = fuse(unfuse(own))
    assert [type(m) for m in again.modules()] == [type(m) for m in own.modules()]


def test_the_model_is_copied_unless_inplace() -> None:
    plain = make_network()
    fused = fuse(plain)
    assert type(plain) is reference.ResNet and fused is not plain
    assert fused.fc.weight is not plain.fc.weight
    weight = plain.conv1.weight
    assert fuse(plain, inplace=True) is plain and type(plain) is models.ResNet
    assert plain.conv1.weight is weight, "fusing in place must keep the parameters"
    assert unfuse(plain, inplace=True) is plain and type(plain) is reference.ResNet


def test_the_report_names_what_was_fused_and_what_not() -> None:
    network = nn.Sequential(
        make_network(),
        nn.ModuleDict({"head": nn.Conv2d(3, 4, 1), "norm": nn.BatchNorm2d(4)}),
    )
    fuse(network)
    fused = {entry.path: entry for entry in fuse.report.fused}
    left = {entry.path: entry for entry in fuse.report.left}
    assert fused["0"].note == "stem: conv1 + bn1 + relu"
    assert fused["0.layer2"].note == "2 blocks"
    assert fused["0.layer2.0"].note == "2 convolutions + projection"
    assert left["1.head"].note == "has a bias"
    assert "parent ModuleDict" in left["1.norm"].note
    text = str(fuse.report)
    assert "fused: 6" in text and "left as it is: 2" in text and "1.head" in text


def test_the_report_of_a_fused_model_follows_later_changes() -> None:
    fused = fuse(make_network())
    assert not fuse_report(fused).left
    fused.layer2[1].conv1.register_forward_hook(lambda module, args, output: None)
    left = fuse_report(fused).left
    assert [(e.path, e.note) for e in left] == [("layer2.1", "conv1 has hooks")]


def test_a_shared_convolution_is_left_alone_and_right() -> None:
    plain = make_network()
    plain.layer2[1].conv2 = plain.layer2[1].conv1
    fused = fuse(plain)
    notes = {e.path: e.note for e in fuse.report.left}
    assert notes == {"layer2.1": "layer2.1.conv1 is shared with layer2.1.conv2"}
    for training in (True, False):
        assert_same_pass(
            run_pass(fused.train(training), images()), run_pass(plain.train(training), images())
        )


def test_a_convolution_shared_between_sequentials_is_left_alone_and_right() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    plain = nn.Sequential(
        nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU()),
        nn.Sequential(conv, nn.BatchNorm2d(3), nn.ReLU()),
    )
    plain = randomise(plain).double().eval()
    plain[1][1].running_mean += 1.0
    fused = fuse(plain)
    assert not fuse.report.fused
    assert {e.path for e in fuse.report.left} == {"0", "1"}
    with torch.no_grad():
        assert_close(fused(images()), plain(images()), "output")


def test_a_block_used_twice_is_fused_once() -> None:
    block = randomise(reference.BasicBlock(3, 3))
    plain = nn.Sequential(block, block).double()
    fused = fuse(plain)
    assert fused[0] is fused[1] and type(fused[0]) is fused_nn.BasicBlock
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))
    with torch.no_grad():
        assert_close(fused.eval()(images()), plain.eval()(images()), "inference")


class Squared(reference.BasicBlock):
    """A user's own variation of a block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).square()


class OwnFused(fused_nn.BasicBlock):
    """A user's class on top of a fused block."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + 1.0


def test_of_a_subclass_its_own_forward_is_fused() -> None:
    plain = randomise(nn.Sequential(Squared(3, 3)).double())
    fused = fuse(plain)
    assert isinstance(fused[0], Squared) and not isinstance(fused[0], fused_nn.BasicBlock)
    assert [e.note for e in fuse.report.fused] == [
        "forward: conv1 + bn1 + relu, conv2 + bn2 + add + relu"
    ], str(fuse.report)
    assert not fuse.report.left
    assert_same_pass(run_pass(fused, images()), run_pass(plain, images()))


def test_a_users_subclass_of_a_fused_block_works() -> None:
    own = randomise(OwnFused(3, 3)).double().eval()
    stage = fused_nn.FusedStage(own, own)
    plain = reference.BasicBlock(3, 3).double().eval()
    plain.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert_close(stage(images()), plain(plain(images()) + 1.0) + 1.0, "output")
    assert type(unfuse(own)) is OwnFused
    assert type(pickle.loads(pickle.dumps(own))) is OwnFused


def test_a_replaced_forward_is_left_alone() -> None:
    plain = make_network()
    plain.layer1[0].forward = lambda x: x * 2
    fuse(plain, inplace=True)
    assert ("layer1.0", "has a replaced forward") in [(e.path, e.note) for e in fuse.report.left]
    assert plain(images()).shape == (2, 5)


def test_hooks_attributes_and_modes_survive() -> None:
    plain = make_network()
    plain.layer1[0].train()
    plain.layer1[0].note = "mine"
    calls: list[str] = []
    plain.layer1[0].register_forward_hook(lambda module, args, output: calls.append("hook"))
    fused = fuse(plain, inplace=True)
    fused(images())
    assert calls == ["hook"]
    assert fused.layer1[0].note == "mine"
    assert fused.layer1[0].training and not fused.layer2.training


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="memory is 'forget'; accepted: 'save' or 'recompute'"):
        fuse(make_network(), memory="forget")
    for function in (fuse, unfuse, fuse_report):
        with pytest.raises(TypeError, match="model is a function"):
            function(images)


def test_fusing_twice_changes_nothing() -> None:
    once = fuse(make_network())
    twice = fuse(once)
    assert [type(m) for m in twice.modules()] == [type(m) for m in once.modules()]
    assert len(fuse.report.fused) == 6


def test_the_functions_stay_functions_whatever_is_imported() -> None:
    import resnet_cuda.explain
    import resnet_cuda.fuse  # noqa: F401

    pickle.loads(pickle.dumps(fuse(make_network())))
    assert callable(resnet_cuda.fuse) and callable(resnet_cuda.explain)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_compile_in_one_graph(training: bool) -> None:
    fused = fuse(make_network()).train(training)
    expected = copy.deepcopy(fused)(images())
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    assert_close(compiled(images()), expected, "compiled output")


def test_export_and_symbolic_tracing() -> None:
    fused = fuse(make_network())
    expected = fused(images())
    exported = torch.export.export(fused, (images(),)).module()
    assert_close(exported(images()), expected, "exported output")
    traced = torch.fx.symbolic_trace(fused)
    assert_close(traced(images()), expected, "traced output")
    assert any(node.target == "layer1.0.conv1" for node in traced.graph.nodes)


def test_functional_calls_and_their_gradients() -> None:
    plain, fused = make_network(), fuse(make_network())
    fused.load_state_dict(plain.state_dict())
    parameters = {name: p.detach() for name, p in plain.named_parameters()}

    def loss(model: nn.Module, parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, (images(),)).square().sum()

    actual = torch.func.grad(lambda p: loss(fused, p))(parameters)
    expected = torch.func.grad(lambda p: loss(plain, p))(parameters)
    for name, value in expected.items():
        assert_close(actual[name], value, f"gradient of {name}")


def test_autocast() -> None:
    plain = make_network().float()
    fused = fuse(plain)
    x = images().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        actual, expected = fused(x), plain(x)
    assert actual.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(actual, expected, rtol=0.1, atol=0.1)


def test_second_derivatives_through_a_network() -> None:
    plain, fused = make_network(), fuse(make_network())
    fused.load_state_dict(plain.state_dict())

    def penalty(model: nn.Module) -> list[torch.Tensor]:
        x = images().requires_grad_()
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        parameters = [p for name, p in model.named_parameters() if name != "fc.bias"]
        return list(torch.autograd.grad(grad.square().sum(), parameters))

    for actual, expected in zip(penalty(fused), penalty(plain), strict=True):
        assert_close(actual, expected, "gradient of the gradient penalty")
