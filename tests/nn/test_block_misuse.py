"""Unusual and wrong uses of whole blocks: what plain torch gives, or the error that plain torch raises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_cuda import nn as fused_nn
from resnet_cuda import reference
from resnet_cuda.reference.blocks import ZeroPadShortcut
from resnet_cuda.testing import check_rule
from tests.networks import assert_close, randomise

KINDS = {
    "basic": ("BasicBlock", (8, 8)),
    "basic A": ("BasicBlock", (8, 16, 2)),
    "bottleneck": ("Bottleneck", (16, 4, 1)),
    "projection": ("Bottleneck", (8, 4, 2)),
}
MODIFIED = "modified by an inplace operation"


class Twins(NamedTuple):
    plain: nn.Module
    fused: nn.Module
    device: str

    def images(self, *size: int, requires_grad: bool = True) -> Tensor:
        """[3, C, 7, 6] in float64 unless told otherwise."""
        shape = size or (3, self.plain.conv1.in_channels, 7, 6)
        x = torch.randn(shape, dtype=torch.float64).to(self.device)
        return x.requires_grad_(requires_grad)

    def to(self, dtype: torch.dtype) -> Twins:
        return Twins(self.plain.to(dtype), self.fused.to(dtype), self.device)


@pytest.fixture(params=["save", "recompute"])
def memory(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[*KINDS, "closed form"])
def twins(request: pytest.FixtureRequest, memory: str, device: str) -> Twins:
    """A plain block and a fused one with the same weights."""
    closed_form = request.param == "closed form"
    cls, arguments = KINDS["projection" if closed_form else request.param]
    options = {"base_width": 128} if closed_form else {}
    options |= {"shortcut": "A"} if request.param == "basic A" else {}
    plain = randomise(getattr(reference, cls)(*arguments, **options))
    fused = getattr(fused_nn, cls)(*arguments, memory=memory, **options)
    fused.load_state_dict(plain.state_dict())
    fused.closed_form = closed_form
    assert fused.blocker() is None, f"the fused path is off: {fused.blocker()}"
    return Twins(plain.double().to(device), fused.double().to(device), device)


def state_after(block: nn.Module, use: Callable[[nn.Module], object], *inputs: Tensor) -> dict:
    """Gradients of the inputs and of all parameters, and the buffers, after `use`."""
    for leaf in inputs:
        leaf.grad = None
    use(block)
    found = {f"gradient of input {i}": leaf.grad for i, leaf in enumerate(inputs)}
    found |= {f"gradient of {name}": p.grad for name, p in block.named_parameters()}
    found |= dict(block.named_buffers())
    return {name: None if t is None else t.clone() for name, t in found.items()}


def assert_same_use(twins: Twins, use: Callable[[nn.Module], object], *inputs: Tensor) -> None:
    """`use` leaves both blocks with the same gradients and statistics."""
    expected = state_after(twins.plain, use, *inputs)
    actual = state_after(twins.fused, use, *inputs)
    for name, value in expected.items():
        found = actual[name]
        if value is None or found is None:
            assert found is value, f"{name}: one of them is missing"
        elif value.is_floating_point():
            assert_close(found, value, name)
        else:
            assert torch.equal(found, value), f"{name}: {found} instead of {value}"


def backward(z: Tensor, **options: bool) -> None:
    """With a gradient that tells positions apart."""
    weights = torch.arange(z.numel(), device=z.device).reshape(z.shape) % 7 - 2.5
    z.backward(weights.to(z.dtype), **options)


def test_a_block_used_twice_before_backward(twins: Twins) -> None:
    x, other = twins.images(), twins.images()
    assert_same_use(twins, lambda block: backward(block(x) + 2 * block(x)), x)
    assert_same_use(twins, lambda block: backward(block(x) * block(other)), x, other)


def test_a_block_on_its_own_output(device: str, memory: str) -> None:
    plain = reference.BasicBlock(8, 8).double().to(device)
    fused = fused_nn.BasicBlock(8, 8, memory=memory).double().to(device)
    fused.load_state_dict(plain.state_dict())
    twins = Twins(plain, fused, device)
    x = twins.images()
    assert_same_use(twins, lambda block: backward(block(block(x))), x)


def test_backward_twice_doubles_the_gradients(twins: Twins) -> None:
    x = twins.images()

    def use(block: nn.Module) -> None:
        z = block(x)
        backward(z, retain_graph=True)
        once = [x.grad.clone(), *(p.grad.clone() for p in block.parameters())]
        backward(z)
        for a, b in zip(once, [x, *block.parameters()], strict=True):
            assert torch.equal(2 * a, b.grad), "the second backward gave other gradients"

    assert_same_use(twins, use, x)


def test_backward_twice_without_the_graph_is_torchs_error(twins: Twins) -> None:
    for block in twins[:2]:
        z = block(twins.images())
        backward(z)
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            backward(z)


def test_an_input_without_gradient(twins: Twins) -> None:
    x = twins.images(requires_grad=False)
    assert_same_use(twins, lambda block: backward(block(x)), x)


@pytest.mark.parametrize("kinds", [(nn.Conv2d, nn.BatchNorm2d), (nn.Conv2d,), (nn.BatchNorm2d,)])
@pytest.mark.parametrize("wants_input", [True, False])
def test_frozen_parameters(twins: Twins, kinds: tuple[type, ...], wants_input: bool) -> None:
    for block in twins[:2]:
        for module in block.modules():
            if isinstance(module, kinds):
                module.requires_grad_(False)
    x = twins.images(requires_grad=wants_input)
    if not wants_input and len(kinds) == 2:
        assert not twins.plain(x).requires_grad and not twins.fused(x).requires_grad
        return
    assert_same_use(twins, lambda block: backward(block(x)), x)


@pytest.mark.parametrize("which", range(4))
def test_a_single_parameter_that_trains(twins: Twins, which: int) -> None:
    for block in twins[:2]:
        block.requires_grad_(False)
        list(block.parameters())[-1 - which].requires_grad_()
    x = twins.images(requires_grad=False)
    assert_same_use(twins, lambda block: backward(block(x)), x)


@pytest.mark.parametrize(
    "change",
    [
        lambda block, x: block.conv1.weight,
        lambda block, x: block.conv2.weight,
        lambda block, x: block.bn1.weight,
        lambda block, x: block.bn2.weight,
        lambda block, x: x,
    ],
    ids=["first weight", "second weight", "first gamma", "second gamma", "input"],
)
def test_what_changed_before_backward_is_torchs_error(
    twins: Twins, change: Callable[[nn.Module, Tensor], Tensor]
) -> None:
    for block in twins[:2]:
        # In NCHW the kernels' copy of the input is kept, which stays as it was.
        x = twins.images().detach().to(memory_format=torch.channels_last).requires_grad_()
        z = block(x)
        with torch.no_grad():
            change(block, x).mul_(2)
        with pytest.raises(RuntimeError, match=MODIFIED):
            backward(z)


def test_beta_that_changed_before_backward(twins: Twins, backend: str, memory: str) -> None:
    """Torch allows it, and so does a block that torch itself differentiates. Elsewhere it is an error: the forward may
    run again and the second derivatives read it."""

    def use(block: nn.Module) -> None:
        z = block(x)
        with torch.no_grad():
            block.bn1.bias.add_(1)
        backward(z)

    x = twins.images()
    samples = isinstance(
        twins.plain.downsample, ZeroPadShortcut
    )  # whose gradient torch would spread in memory
    if backend == "cpu" and memory == "save" and not samples:
        assert_same_use(twins, use, x)
        return
    with pytest.raises(RuntimeError, match=MODIFIED):
        use(twins.fused)


def test_an_output_that_changed_before_backward(twins: Twins) -> None:
    """Torch's error where the output is the ReLU's gate, else the right gradient."""
    x = twins.images()
    with pytest.raises(RuntimeError, match=MODIFIED):
        backward(twins.plain(x).mul_(2))
    try:
        state_after(twins.fused, lambda block: backward(block(x).mul_(2)), x)
    except RuntimeError as error:
        assert MODIFIED in str(error)
        return
    for block in twins[:2]:
        block.zero_grad()
        randomise(block)  # the same statistics again
    expected = state_after(twins.plain, lambda block: backward(block(x) * 2), x)
    actual = state_after(twins.fused, lambda block: backward(block(x).mul_(2)), x)
    for name, value in expected.items():
        if name.startswith("gradient"):
            assert_close(actual[name], value, name)


def test_parameters_that_two_blocks_share(twins: Twins) -> None:
    x = twins.images()

    def tied(block: nn.Module) -> Callable[[Tensor], Tensor]:
        other = copy.deepcopy(block)
        other.conv2.weight, other.bn1.weight = block.conv2.weight, block.bn1.weight
        return other

    def use(block: nn.Module) -> None:
        backward(block(x) + tied(block)(x))

    assert_same_use(twins, use, x)


@pytest.mark.parametrize("use_reentrant", [True, False], ids=["reentrant", "hooks"])
def test_checkpoints(twins: Twins, use_reentrant: bool) -> None:
    x = twins.images()

    def use(block: nn.Module) -> None:
        backward(checkpoint(block, x, use_reentrant=use_reentrant))

    assert_same_use(twins, use, x)


def test_layouts_of_the_input(twins: Twins) -> None:
    c = twins.plain.conv1.in_channels
    layouts = {
        "expanded": twins.images(1, c, 7, 6).expand(3, -1, -1, -1),
        "every second pixel": twins.images(3, c, 14, 12)[:, :, ::2, ::2],
        "transposed": twins.images(3, c, 6, 7).transpose(2, 3),
        "every second channel": twins.images(3, 2 * c, 7, 6)[:, ::2],
        "channels last": twins.images().to(memory_format=torch.channels_last),
        "one channel of an expanded image": twins.images(3, 1, 7, 6).expand(-1, c, -1, -1),
    }
    for name, x in layouts.items():
        leaf = x.detach().requires_grad_()
        torch.testing.assert_close(
            twins.fused(leaf), twins.plain(leaf), msg=lambda m, n=name: f"{n}: {m}"
        )
        assert_same_use(twins, lambda block, leaf=leaf: backward(block(leaf)), leaf)


def test_layouts_of_the_gradient(twins: Twins) -> None:
    x = twins.images()
    n, k, p, q = copy.deepcopy(twins.plain)(x).shape
    dz = {
        "of a sum": torch.ones((), dtype=x.dtype, device=x.device).expand(n, k, p, q),
        "per channel": twins.images(1, k, 1, 1, requires_grad=False).expand(n, k, p, q),
        "transposed": twins.images(n, k, q, p, requires_grad=False).transpose(2, 3),
        "every second": twins.images(n, k, 2 * p, q, requires_grad=False)[:, :, ::2],
        "NCHW": twins.images(n, k, p, q, requires_grad=False),
    }
    for given in dz.values():
        assert_same_use(twins, lambda block, given=given: block(x).backward(given), x)
    assert_same_use(twins, lambda block: block(x).sum().backward(), x)
    assert_same_use(twins, lambda block: block(x)[:, 1:, ::2].sum().backward(), x)


def test_an_empty_batch(twins: Twins) -> None:
    x = twins.images(0, twins.plain.conv1.in_channels, 7, 6)
    for bn in (m for block in twins[:2] for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        bn.num_batches_tracked = None  # torch counts an empty batch, a fused block does not
    assert_same_use(twins, lambda block: block(x).sum().backward(), x)
    assert twins.fused(x).shape == twins.plain(x).shape


def test_one_value_per_channel_is_torchs_error(twins: Twins) -> None:
    x = twins.images(1, twins.plain.conv1.in_channels, 1, 1)
    for block in twins[:2]:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            block(x)
        assert block.eval()(x).shape[0] == 1, "with running statistics one value is enough"


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16"])
def test_convolutions_in_bfloat16_and_batch_norms_in_float32(twins: Twins, autocast: bool) -> None:
    exact = copy.deepcopy(twins.plain)
    low = twins.to(torch.bfloat16)
    for block in low[:2]:
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()
    exact.load_state_dict(low.plain.state_dict())
    x = twins.images().detach().to(torch.bfloat16)  # as the block before hands it over

    def run(block: nn.Module) -> Tensor:
        leaf = x.clone().requires_grad_()
        with torch.autocast(twins.device, torch.bfloat16, enabled=autocast):
            z = block(leaf)
        backward(z)
        assert leaf.grad.dtype == x.dtype
        for name, parameter in block.named_parameters():
            assert parameter.grad.dtype == parameter.dtype, f"gradient of {name}"
        return z

    check_rule(run(low.fused), run(low.plain), exact(x.double()))
    for (name, ours), theirs, truth in zip(
        low.fused.named_buffers(), low.plain.buffers(), exact.buffers(), strict=True
    ):
        if ours.is_floating_point():
            check_rule(ours, theirs, truth, name=name)


def test_an_autocast_that_is_switched_off_inside_another(twins: Twins) -> None:
    exact, low = copy.deepcopy(twins.plain), twins.to(torch.float32)
    x = twins.images().detach().float().requires_grad_()
    outputs = []
    for block in low[:2]:
        with torch.autocast(twins.device, torch.bfloat16):
            with torch.autocast(twins.device, enabled=False):
                z = block(x)
            assert z.dtype == torch.float32
            assert block(x.bfloat16()).dtype == torch.bfloat16
        outputs.append(z)
    check_rule(*outputs, exact(x.double()))


def test_dtypes_that_torch_does_not_mix_are_refused(twins: Twins) -> None:
    low = twins.to(torch.bfloat16)
    for block in low[:2]:
        with pytest.raises((RuntimeError, TypeError), match="type"):
            block(twins.images().detach().float())
