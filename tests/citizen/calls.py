"""Every public op and every fused module with small inputs: what the tests of this folder run through."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

import resnet_cuda
from resnet_cuda import ops
from resnet_cuda.nn import (
    AddReLU,
    BasicBlock,
    BNReLU,
    Bottleneck,
    ConvBNReLU,
    FusedStage,
    PreActBasicBlock,
    PreActBottleneck,
    WideBasicBlock,
)
from tests.networks import assert_close, randomise


class OpRow(NamedTuple):
    """sizes: of the leaves, x first: [N, C, H, W], [K, C, R, S] or [K]. call(training, *leaves)."""

    sizes: Sequence[tuple[int, ...]]
    call: Callable[..., Tensor]


class Problem(NamedTuple):
    """call(*leaves) is one of the ops."""

    call: Callable[..., Tensor]
    leaves: list[Tensor]


def statistics(like: Tensor, training: bool) -> tuple[Tensor | None, Tensor | None]:
    """Running statistics at inference; none in training, where nothing is to move. (Modules have both.)"""
    if training:
        return None, None
    k = like.shape[0]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    return torch.linspace(-0.2, 0.3, k, dtype=dtype), torch.linspace(0.5, 1.5, k, dtype=dtype)


def unit(training: bool, w: Tensor, g: Tensor, b: Tensor, **options: object) -> ops.ConvUnit:
    return ops.ConvUnit(w, g, b, *statistics(w, training), training=training, **options)


def convolve(op: Callable[..., Tensor], **options: object) -> Callable[..., Tensor]:
    """The call of an op with one convolution, and perhaps a residual."""

    def call(
        training: bool, x: Tensor, w: Tensor, g: Tensor, b: Tensor, *residual: Tensor
    ) -> Tensor:
        given = {"residual": residual[0]} if residual else {}
        return op(x, w, g, b, *statistics(w, training), **given, training=training, **options)

    return call


def bn_relu(training: bool, x: Tensor, g: Tensor, b: Tensor, residual: Tensor) -> Tensor:
    stats = statistics(g, training)
    return ops.bn_relu(x, g, b, *stats, residual=residual, training=training)


def expand_reduce(training: bool, x: Tensor, *rest: Tensor) -> Tensor:
    (*expand, residual), reduce = rest[:4], rest[4:]
    both = ops.bottleneck_expand_reduce(
        x, unit(training, *expand), residual, unit(training, *reduce)
    )
    return torch.cat(both, 1)


def block(training: bool, x: Tensor, *rest: Tensor) -> Tensor:
    """At inference alone: the op has no training."""
    units = [unit(False, *rest[i : i + 3], padding=(int(i == 3),) * 2) for i in (0, 3, 6)]
    return ops.bottleneck_block(x, *units)


def branch(training: bool, x: Tensor, *rest: Tensor) -> Tensor:
    units = [unit(training, *rest[:3]), unit(training, *rest[3:6], stride=(2, 2), padding=(1, 1))]
    return ops.residual_branch(x, units, unit(training, *rest[6:], stride=(2, 2)))


def shortened(training: bool, x: Tensor, *rest: Tensor) -> Tensor:
    units = [unit(training, *rest, stride=(2, 2), padding=(1, 1))]
    return ops.residual_branch(x, units, ops.ZeroPad(2, 8))


X = (2, 4, 5, 5)
OPS: dict[str, OpRow] = {
    "add_relu": OpRow([X, X], lambda _, x, residual: ops.add_relu(x, residual)),
    "bn_relu": OpRow([X, (4,), (4,), X], bn_relu),
    "bottleneck_block": OpRow(
        [X, (2, 4, 1, 1), (2,), (2,), (2, 2, 3, 3), (2,), (2,), (4, 2, 1, 1), (4,), (4,)], block
    ),
    "bottleneck_expand": OpRow(
        [X, (8, 4, 1, 1), (8,), (8,), (2, 8, 5, 5)], convolve(ops.bottleneck_expand)
    ),
    "bottleneck_expand_reduce": OpRow(
        [X, (8, 4, 1, 1), (8,), (8,), (2, 8, 5, 5), (2, 8, 1, 1), (2,), (2,)], expand_reduce
    ),
    "bottleneck_reduce": OpRow([X, (2, 4, 1, 1), (2,), (2,)], convolve(ops.bottleneck_reduce)),
    "conv_bn_relu": OpRow(
        [X, (8, 4, 3, 3), (8,), (8,), (2, 8, 5, 5)], convolve(ops.conv_bn_relu, padding=1)
    ),
    "conv_bn_relu_max_pool2d": OpRow(
        [X, (8, 4, 3, 3), (8,), (8,)], convolve(ops.conv_bn_relu_max_pool2d, padding=1)
    ),
    "conv_unit": OpRow(
        [X, (8, 2, 3, 3), (8,), (8,)],
        lambda training, x, *w: ops.conv_unit(x, unit(training, *w, groups=2)),
    ),
    "global_avg_pool": OpRow([X], lambda _, x: ops.global_avg_pool(x)),
    "max_pool2d": OpRow([X], lambda _, x: ops.max_pool2d(x)),
    "residual_branch": OpRow(
        [X, (2, 4, 1, 1), (2,), (2,), (8, 2, 3, 3), (8,), (8,), (8, 4, 1, 1), (8,), (8,)], branch
    ),
    # The same op with the other kinds of shortcut, whose gradients go other ways.
    "residual_branch, option A": OpRow([X, (8, 4, 3, 3), (8,), (8,)], shortened),
}

# Of these, training is not another computation.
_UNTRAINED = {"add_relu", "bottleneck_block", "global_avg_pool", "max_pool2d"}
# (name, training) of every op.
CASES = [
    (name, training) for name in OPS for training in (False, True)[: 1 + (name not in _UNTRAINED)]
]


def problem(name: str, *, dtype: torch.dtype = torch.float64, training: bool = False) -> Problem:
    """The op with random leaves that want gradients; vectors in float32 where `dtype` is shorter."""
    generator = torch.Generator().manual_seed(len(name))
    vectors = dtype if dtype.itemsize >= 4 else torch.float32
    row, leaves = OPS[name], []
    for size in row.sizes:
        leaf = torch.randn(size, generator=generator, dtype=torch.float64)
        if len(size) == 4 and size[0] != X[0]:
            leaf = leaf * (2 / (size[1] * size[2] * size[3])) ** 0.5
        leaves.append(leaf.to(vectors if len(size) == 1 else dtype).requires_grad_())
    return Problem(lambda *given: row.call(training, *given), leaves)


class Traced(nn.Module):
    """Of no class that is recognised: `fuse` follows its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


# Each takes [N, 8, H, W]; AddReLU takes two of them.
MODULES: dict[str, Callable[[], nn.Module]] = {
    "AddReLU": AddReLU,
    "BNReLU": lambda: BNReLU(8),
    "BasicBlock": lambda: BasicBlock(8, 8),
    "Bottleneck": lambda: Bottleneck(8, 8, 2),  # its ends: batch norm in closed form
    "ConvBNReLU": lambda: ConvBNReLU(8, 4, 3),
    "FusedStage": lambda: FusedStage(BasicBlock(8, 8), BasicBlock(8, 16, 2, shortcut="A")),
    "PreActBasicBlock": lambda: PreActBasicBlock(8, 16, 2),
    "PreActBottleneck": lambda: PreActBottleneck(8, 2),
    "WideBasicBlock": lambda: WideBasicBlock(8, 16),
    "traced": lambda: resnet_cuda.fuse(Traced()),
}


def module(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A fused module with the weights and statistics of after some training."""
    torch.manual_seed(len(name))
    made = randomise(MODULES[name]()).to(dtype)
    assert getattr(made, "blocker", lambda: None)() is None, f"{name} does not run fused"
    return made


def inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Two images for the module, as leaves."""
    generator = torch.Generator().manual_seed(11)
    count = 2 if name == "AddReLU" else 1
    images = [
        torch.randn(2, 8, 6, 5, generator=generator, dtype=torch.float64) for _ in range(count)
    ]
    return tuple(x.to(dtype).requires_grad_() for x in images)


def public_functions() -> set[str]:
    return {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}


def step(
    made: nn.Module, given: Sequence[Tensor], call: Callable[..., Tensor] | None = None
) -> dict[str, Tensor]:
    """The output, all gradients and all buffers after one pass; `call` runs in place of the module."""
    leaves = [x.detach().clone().requires_grad_() for x in given]
    made.zero_grad()
    torch.manual_seed(3)
    z = (call or made)(*leaves)
    z.backward((torch.arange(z.numel()).view_as(z) % 7 - 2.5).to(z.dtype))
    found = {"output": z.detach()}
    found |= {f"gradient of input {i}": x.grad.clone() for i, x in enumerate(leaves)}
    found |= {f"gradient of {name}": p.grad.clone() for name, p in made.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in made.named_buffers()}


def assert_same_bits(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), f"{name} has other bits"


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """To rounding in float64; counters exactly."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():
            assert_close(found[name], value, name)
        else:
            assert torch.equal(found[name], value), f"{name} is {found[name]}, not {value}"
