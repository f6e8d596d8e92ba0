"""Pre-activation and wide blocks against their plain twins, on the CPU and on our kernels."""

from __future__ import annotations

import contextlib
import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_cuda import _raw, explain, fuse, ops, reference, unfuse
from resnet_cuda import nn as fused_nn
from resnet_cuda.nn._recording import listening
from resnet_cuda.ops import ConvUnit, Identity, NormUnit, ZeroPad
from resnet_cuda.testing import emulated, gradcheck_op
from resnet_cuda.trace import trace
from tests.networks import (
    Pass,
    assert_close,
    assert_rule_over_inputs,
    assert_same_pass,
    decide,
    make_adversarial,
    randomise,
    run_pass,
)

BLOCKS: dict[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "basic": ("PreActBasicBlock", (8, 8), {}),
    "basic down": ("PreActBasicBlock", (8, 16, 2), {}),
    "basic odd channels": ("PreActBasicBlock", (5, 7, 2), {}),
    "basic option A": ("PreActBasicBlock", (8, 16, 2), {"shortcut": "A"}),
    "basic option C": ("PreActBasicBlock", (8, 8), {"shortcut": "C"}),
    "basic plain": ("PreActBasicBlock", (8, 16, 2), {"shortcut": "none"}),
    "bottleneck": ("PreActBottleneck", (16, 4), {}),
    "bottleneck down": ("PreActBottleneck", (12, 4, 2), {}),
    "bottleneck option A": ("PreActBottleneck", (12, 4, 2), {"shortcut": "A"}),
    "bottleneck option C": ("PreActBottleneck", (16, 4), {"shortcut": "C"}),
    "bottleneck plain": ("PreActBottleneck", (12, 4, 2), {"shortcut": "none"}),
    "bottleneck grouped": ("PreActBottleneck", (16, 8, 2), {"groups": 4}),
    "wide": ("WideBasicBlock", (8, 8), {"dropout": 0.3}),
    "wide down": ("WideBasicBlock", (8, 16, 2), {"dropout": 0.3}),
    "wide option A": ("WideBasicBlock", (8, 16, 2), {"dropout": 0.3, "shortcut": "A"}),
    "wide no affine": (
        "WideBasicBlock",
        (8, 8),
        {"dropout": 0.5, "norm_layer": lambda c: nn.BatchNorm2d(c, affine=False)},
    ),
}
# For the tolerance rule, which is statistics.
BROAD = {
    "basic down, broad": ("PreActBasicBlock", (32, 64, 2), {}),
    "bottleneck, broad": ("PreActBottleneck", (64, 16), {}),
    "bottleneck down, broad": ("PreActBottleneck", (32, 16, 2), {}),
}
BACKENDS = ("cpu", "emulated")


@contextlib.contextmanager
def on(backend: str) -> Iterator[None]:
    if backend == "cpu":
        yield
        return
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    with emulated():
        yield


def twins(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """(plain, fused) with the same weights."""
    cls, arguments, options = (BLOCKS | BROAD)[name]
    torch.manual_seed(0)
    plain = randomise(getattr(reference, cls)(*arguments, **options))
    fused = getattr(fused_nn, cls)(*arguments, **options)
    fused.load_state_dict(plain.state_dict(), strict=True)
    assert fused.blocker() is None, f"the fused path is off: {fused.blocker()}"
    return plain.to(dtype), fused.to(dtype)


def images(
    block: nn.Module, n: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1
) -> Tensor:
    """In channels_last, as the kernels want them: then torch draws a dropout's mask in our order."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, block.bn1.num_features, 7, 5, generator=generator, dtype=torch.float64)
    x = x.to(dtype)
    return x.to(memory_format=torch.channels_last)


def seeded_pass(block: nn.Module, x: Tensor) -> Pass:
    torch.manual_seed(11)
    return run_pass(block, x)


def decided_pass(block: nn.Module, x: Tensor) -> Pass:
    """In float64, where no ReLU is near its edge."""
    exact = copy.deepcopy(block).double()
    nearest = []
    for bn in (m for m in exact.modules() if isinstance(m, nn.BatchNorm2d)):
        bn.register_forward_hook(lambda _, __, out: nearest.append(out.abs().min().item()))
    found = run_pass(exact, x.double())
    exact(x.double())
    assert min(nearest) > 0.1, f"a ReLU sees {min(nearest):.3f}: choose other weights"
    return found


@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BLOCKS)
def test_block_equals_its_plain_twin(name: str, backend: str, training: bool, memory: str) -> None:
    """Dropout included: the same elements as torch drops from the same seed."""
    plain, fused = twins(name)
    fused.memory = memory
    x = images(plain)
    plain.train(training)
    fused.train(training)
    expected = seeded_pass(plain, x)
    with on(backend):
        assert_same_pass(seeded_pass(fused, x), expected)
        with torch.no_grad():
            torch.manual_seed(3)
            out = copy.deepcopy(fused)(x)
    torch.manual_seed(3)
    with torch.no_grad():
        assert_close(out, plain(x), "output without gradients")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["basic down", "bottleneck", "wide"])
def test_block_equals_its_plain_twin_with_gammas_zero_and_negative(name: str, backend: str) -> None:
    plain, fused = twins(name)
    make_adversarial(plain)
    fused.load_state_dict(plain.state_dict())
    x = images(plain)
    for training in (True, False):
        plain.train(training)
        fused.train(training)
        with on(backend):
            found = seeded_pass(fused, x)
        assert_same_pass(found, seeded_pass(plain, x))


def check_rule_over_seeds(
    name: str, backend: str, dtype: torch.dtype, images_dtype: torch.dtype, autocast: bool
) -> None:
    plain, fused = twins(name, dtype)
    decide(plain)
    fused.load_state_dict(plain.state_dict())
    ours, theirs, exact = [], [], []
    for seed in range(6):
        x = images(plain, 4, images_dtype, seed)
        exact.append(decided_pass(plain, x))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            theirs.append(run_pass(plain, x))
            with on(backend):
                ours.append(run_pass(fused, x))
        assert ours[-1].output.dtype == theirs[-1].output.dtype
    assert_rule_over_inputs(ours, theirs, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BROAD)
def test_block_keeps_the_tolerance_rule(name: str, backend: str, dtype: torch.dtype) -> None:
    check_rule_over_seeds(name, backend, dtype, dtype, autocast=False)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name",
    ["basic", "basic odd channels", "basic option A", "bottleneck down", "wide", "wide down"],
)
def test_first_and_second_derivatives_are_right(name: str, backend: str, training: bool) -> None:
    _, block = twins(name)
    block.train(training)
    parameters = dict(block.named_parameters())

    def op(x: Tensor, *values: Tensor) -> Tensor:
        torch.manual_seed(5)  # the same elements dropped in every call
        given = dict(zip(parameters, values, strict=True))
        clean = {name: buffer.clone() for name, buffer in block.named_buffers()}
        return torch.func.functional_call(block, {**given, **clean}, (x,))

    torch.manual_seed(1)
    x = torch.randn(2, block.bn1.num_features, 5, 3, dtype=torch.float64, requires_grad=True)
    values = [p.detach().clone().requires_grad_() for p in parameters.values()]
    with on(backend):
        gradcheck_op(op, [x, *values], fast=True)


@pytest.mark.parametrize(
    "trained",
    [
        ["conv2.weight"],
        ["bn2.weight", "bn2.bias"],
        ["conv1.weight"],
        ["bn1.bias"],
        ["downsample.weight"],
        ["bn1.weight", "downsample.weight"],
        [],
    ],
    ids=lambda names: "+".join(names) or "x alone",
)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_what_is_not_frozen(backend: str, training: bool, trained: list[str]) -> None:
    plain, fused = twins("wide down")
    x = images(plain)
    gradients = []
    for block in (plain, fused):
        block.train(training)
        for name, parameter in block.named_parameters():
            parameter.requires_grad_(name in trained)
        leaf = x.clone().requires_grad_(not trained)
        with on(backend if block is fused else "cpu"):
            torch.manual_seed(4)
            block(leaf).square().sum().backward()
        found = {name: p.grad for name, p in block.named_parameters()}
        gradients.append({**found, "x": leaf.grad})
    for name, expected in gradients[0].items():
        found = gradients[1][name]
        assert (found is None) == (expected is None), name
        if expected is not None:
            assert_close(found, expected, f"gradient of {name}")


def test_passes_on_the_kernels_add_the_identity_in_an_epilogue() -> None:
    """Of a whole training step: no pass of its own normalises, activates or adds."""
    if not _raw.is_built():
        pytest.skip("resnet_cuda._C is not built: run `make build`")
    block = fused_nn.PreActBasicBlock(16, 16).to(torch.bfloat16)
    calls: list[Any] = []
    with torch.no_grad(), listening(calls.append):
        block(images(block, dtype=torch.bfloat16))
    names = [p.name for p in trace(calls[0]).passes if p.bytes.activations]
    assert names == [
        *("bn_statistics", "conv_fprop", "conv_fprop"),
        *("conv_wgrad", "conv_dgrad", "bn_backward_apply", "conv_wgrad", "conv_dgrad"),
        "bn_backward_apply",
    ]


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_drops_that_share_and_keeps_the_mean(backend: str) -> None:
    """With conv2 the identity and no shortcut's part, the block's output is what was kept."""
    block = fused_nn.WideBasicBlock(8, 8, dropout=0.4).double().train()
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.weight[range(8), range(8), 1, 1] = 1.0
        block.bn2.weight.zero_()
        block.bn2.bias.fill_(3.0)
    x = torch.zeros(8, 8, 32, 32, dtype=torch.float64)
    torch.manual_seed(0)
    with on(backend):
        z = block(x)
    kept = z != 0
    assert set(z[kept].unique().tolist()) == {3.0 / 0.6}, "what is kept grows by 1 / (1 - p)"
    share = 1 - kept.double().mean().item()
    assert abs(share - 0.4) < 4 * (0.4 * 0.6 / z.numel()) ** 0.5, f"{share:.4f} was dropped"


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_of_nothing_and_of_everything(backend: str, p: float) -> None:
    plain = randomise(reference.WideBasicBlock(8, 8, dropout=p)).double().train()
    fused = fuse(plain)
    x = images(plain)
    expected = seeded_pass(plain, x)
    with on(backend):
        found = seeded_pass(fused, x)
    assert_same_pass(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_drawn_anew_in_training_and_not_at_inference(backend: str) -> None:
    _, block = twins("wide")
    x = images(block)
    with on(backend):
        assert not torch.equal(block.train()(x), block(x)), "two steps dropped the same elements"
        assert torch.equal(block.eval()(x), block(x))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpointing_drops_the_same_elements_again(backend: str, reentrant: bool) -> None:
    _, block = twins("wide")
    x = images(block)

    def gradients(call: Callable[[Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(2)
        leaf = x.clone().requires_grad_()
        block.zero_grad()
        call(leaf).square().sum().backward()
        assert leaf.grad is not None
        return [leaf.grad, *(p.grad.clone() for p in block.parameters() if p.grad is not None)]

    with on(backend):
        plain = gradients(block)
        again = gradients(lambda leaf: checkpoint(block, leaf, use_reentrant=reentrant))
    for a, b in zip(plain, again, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", BLOCKS)
def test_fuse_and_unfuse_swap_the_class(name: str) -> None:
    plain, fused = twins(name)
    assert type(fuse(plain)) is type(fused)
    assert type(unfuse(fused)) is type(plain)
    if "norm_layer" not in BLOCKS[name][2]:
        assert type(pickle.loads(pickle.dumps(fused))) is type(fused)


def test_a_touched_child_runs_the_children_one_by_one() -> None:
    for child, reason in (("bn1", "bn1 has hooks"), ("dropout", "dropout has hooks")):
        _, block = twins("wide")
        getattr(block, child).register_forward_hook(lambda module, args, out: out * 2)
        assert block.blocker() == reason
        plain, _ = twins("wide")
        getattr(plain, child).register_forward_hook(lambda module, args, out: out * 2)
        x = images(plain)
        assert_same_pass(seeded_pass(block, x), seeded_pass(plain, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", BROAD)
def test_autocast_keeps_the_tolerance_rule(name: str, backend: str, dtype: torch.dtype) -> None:
    """As in torch, an input in float32 passes the first batch norm and the addition in float32."""
    check_rule_over_seeds(name, backend, torch.float32, dtype, autocast=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_block_equals_eager(backend: str) -> None:
    _, block = twins("basic down")
    x = images(block)
    with on(backend):
        expected = run_pass(block, x)
        torch._dynamo.reset()
        found = run_pass(torch.compile(block, backend="aot_eager", fullgraph=True), x)
    assert_close(found.output, expected.output, "output")
    assert_close(found.input_grad, expected.input_grad, "gradient of the input")
    for name, grad in expected.grads.items():
        assert_close(found.grads[f"_orig_mod.{name}"], grad, f"gradient of {name}")
    for name, buffer in expected.buffers.items():
        assert_close(found.buffers[f"_orig_mod.{name}"].double(), buffer.double(), name)


@pytest.mark.parametrize("training", [True, False])
def test_explain_names_what_the_block_does(training: bool) -> None:
    block = fused_nn.WideBasicBlock(16, 32, 2, dropout=0.3).to(torch.bfloat16).train(training)
    report = explain(block, images(block, dtype=torch.bfloat16))
    assert [u.operation for u in report.units] == [
        "bn + relu + conv + bn + relu" + (" + dropout" if training else ""),
        "conv",
        "conv + add",
    ]
    assert [u.batch_norm for u in report.units][1:] == ["none", "none"]


def _unit(c: int, k: int, **options: Any) -> ConvUnit:
    vectors = [torch.ones(k, dtype=torch.float64) for _ in range(4)]
    given = [None] * 4 if options.get("batch_norm") is False else vectors
    return ConvUnit(torch.randn(k, c, 1, 1, dtype=torch.float64), *given, **options)


@pytest.mark.parametrize(
    ("units", "shortcut", "words"),
    [
        (
            [_unit(8, 8, batch_norm=False), _unit(8, 8)],
            None,
            r"units\[0\].batch_norm is False; accepted: only in the last unit",
        ),
        ([_unit(8, 8), _unit(8, 8, dropout=0.1)], None, r"units\[1\].dropout is 0.1"),
        (
            [_unit(8, 8, dropout=1.5), _unit(8, 8)],
            None,
            r"units\[0\].dropout is 1.5; accepted: 0 to 1",
        ),
        ([_unit(8, 8, dropout=0.5, relu=False), _unit(8, 8)], None, r"units\[0\].dropout is 0.5"),
        ([_unit(8, 8)], _unit(8, 8, dropout=0.5), r"shortcut.dropout is 0.5"),
        (
            [_unit(8, 8), _unit(8, 8, batch_norm=False, training=True)],
            Identity(),
            r"units\[1\] has batch_norm=False and training=True",
        ),
    ],
)
def test_units_that_a_branch_cannot_have_are_named(
    units: list[ConvUnit], shortcut: ConvUnit | Identity | ZeroPad | None, words: str
) -> None:
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=words):
        ops.residual_branch(x, units, shortcut)


def test_a_lone_unit_refuses_what_only_a_branch_takes() -> None:
    with pytest.raises(ValueError, match="unit has batch_norm=False and dropout=0"):
        ops.conv_unit(torch.randn(1, 8, 2, 2).double(), _unit(8, 8, batch_norm=False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_entering_batch_norm_is_checked(backend: str) -> None:
    units = [_unit(8, 8), _unit(8, 8, batch_norm=False)]
    short = torch.ones(7, dtype=torch.float64)
    vectors = [torch.ones(8, dtype=torch.float64) for _ in range(4)]
    x = torch.randn(1, 8, 2, 2, dtype=torch.float64)
    with on(backend):
        with pytest.raises(ValueError, match="gamma"):
            ops.residual_branch(x, units, Identity(), entry=NormUnit(short, *vectors[1:]))
        single = NormUnit(*vectors, training=True)
        with pytest.raises(ValueError, match="value per channel"):
            ops.residual_branch(x[:, :, :1, :1], units, Identity(), entry=single)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_gives_zero_gradients_and_moves_nothing(backend: str) -> None:
    _, block = twins("wide down")
    block.train()
    before = copy.deepcopy(block.state_dict())
    x = images(block, 0).requires_grad_()
    with on(backend):
        block(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name]), name
