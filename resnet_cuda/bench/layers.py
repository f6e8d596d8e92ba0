"""What a network is made of: its distinct convolutions, batch norms, additions, pools and blocks, and how often.

Found by running the network on the meta device, where nothing is computed, and following its tensors from one ATen
op to the next. So any network of torch modules will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import models, reference
from resnet_cuda.fuse import unfuse
from resnet_cuda.ops.conv_bn_relu_max_pool2d import FUSED_WINDOW
from resnet_cuda.reference.blocks import NoShortcut, ZeroPadShortcut
from resnet_cuda.testing.problems import ConvProblem

Shape = tuple[int, int, int, int]
_BLOCKS = (reference.BasicBlock, reference.Bottleneck)
_SHORTCUTS = {ZeroPadShortcut: "zero-padding", NoShortcut: "plain"}  # what has no parameters
_aten = torch.ops.aten


@dataclass(frozen=True)
class Layer:
    """A convolution with what follows it.

    Args:
        conv: its sizes; its own `count` is 1.
        batch_norm, relu: whether they follow.
        residual: whether something is added between batch norm and ReLU.
        projection: the convolution (with batch norm) that makes what is added, where one launch does both.
        input_gradient: False for the first convolution: images have no gradient.
        count: how often the network has it.
    """

    conv: ConvProblem
    batch_norm: bool = False
    residual: bool = False
    relu: bool = False
    projection: ConvProblem | None = None
    input_gradient: bool = True
    count: int = 1

    @property
    def batch(self) -> int:
        return self.conv.N

    def at_batch(self, batch: int) -> Layer:
        projection = self.projection and replace(self.projection, N=batch)
        return replace(self, conv=replace(self.conv, N=batch), projection=projection)

    @property
    def output(self) -> Shape:
        return self.conv.N, self.conv.K, self.conv.P, self.conv.Q

    @property
    def reduces(self) -> bool:
        """Whether a block runs it as `bottleneck_reduce`."""
        return is_pointwise(self.conv) and self.batch_norm and not self.residual

    @property
    def expands(self) -> bool:
        """Whether a block runs it as `bottleneck_expand`."""
        return is_pointwise(self.conv) and self.conv.stride == 1 and self.residual

    def __str__(self) -> str:
        text = str(self.conv)
        if self.projection:
            text += f" + projection {self.projection}"
        elif self.residual:
            text += " + residual"
        return text


@dataclass(frozen=True)
class Elementwise:
    """A batch norm or an addition, with what follows it, on activations of `shape`."""

    shape: Shape
    residual: bool = False
    relu: bool = False
    count: int = 1

    @property
    def batch(self) -> int:
        return self.shape[0]

    def at_batch(self, batch: int) -> Elementwise:
        return replace(self, shape=(batch, *self.shape[1:]))

    @property
    def output(self) -> Shape:
        return self.shape

    def __str__(self) -> str:
        return shape_name(self.shape) + (" + residual" if self.residual else "")


@dataclass(frozen=True)
class Pool:
    """A pooling of `shape`; kernel 0 means global average pooling, anything else a maximum."""

    shape: Shape
    kernel: int = 0
    stride: int = 1
    padding: int = 0
    count: int = 1

    @property
    def batch(self) -> int:
        return self.shape[0]

    def at_batch(self, batch: int) -> Pool:
        return replace(self, shape=(batch, *self.shape[1:]))

    @property
    def output(self) -> Shape:
        n, c, h, w = self.shape
        if not self.kernel:
            return n, c, 1, 1
        p, q = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (h, w))
        return n, c, p, q

    def __str__(self) -> str:
        return shape_name(self.shape)


@dataclass(frozen=True)
class Stem:
    """A convolution with batch norm and ReLU, and the max-pool behind it."""

    layer: Layer
    pool: Pool
    count: int = 1

    @property
    def batch(self) -> int:
        return self.layer.batch

    def at_batch(self, batch: int) -> Stem:
        return replace(self, layer=self.layer.at_batch(batch), pool=self.pool.at_batch(batch))

    @property
    def output(self) -> Shape:
        return self.pool.output

    @property
    def is_fused(self) -> bool:
        """Whether kernels have that pool behind convolutions."""
        return (self.pool.kernel, self.pool.stride, self.pool.padding) == FUSED_WINDOW

    def __str__(self) -> str:
        return f"{self.layer} max-pool"


@dataclass(frozen=True)
class Block:
    """A residual block: its plain module on the meta device, and its input."""

    module: nn.Module
    shape: Shape
    count: int = 1

    @property
    def batch(self) -> int:
        return self.shape[0]

    def at_batch(self, batch: int) -> Block:
        return replace(self, shape=(batch, *self.shape[1:]))

    @property
    def output(self) -> Shape:
        return self.parts().batch_norms[-1].shape

    def parts(self) -> Network:
        """What the block is made of."""
        return trace(self.module, self.shape)

    @property
    def shortcut(self) -> str:
        module = getattr(self.module, "downsample", None)
        return "identity" if module is None else _SHORTCUTS.get(type(module), "projection")

    def __str__(self) -> str:
        *_, last = (m for m in self.module.modules() if isinstance(m, nn.BatchNorm2d))
        first = next(m for m in self.module.modules() if isinstance(m, nn.Conv2d))
        width, out = first.out_channels, self.parts().convolutions[-1].conv.K
        stride = max(m.stride[0] for m in self.module.modules() if isinstance(m, nn.Conv2d))
        groups = max(m.groups for m in self.module.modules() if isinstance(m, nn.Conv2d))
        text = (
            f"{type(self.module).__name__} {shape_name(self.shape)}-{width}-{out} {self.shortcut}"
        )
        return text + (f" s{stride}" if stride > 1 else "") + (f" g{groups}" if groups > 1 else "")


@dataclass(frozen=True)
class Network:
    """The distinct parts of a network, each in the order of its first appearance."""

    convolutions: Sequence[Layer]
    batch_norms: Sequence[Elementwise]
    additions: Sequence[Elementwise]
    max_pools: Sequence[Pool]
    average_pools: Sequence[Pool]
    blocks: Sequence[Block]
    stems: Sequence[Stem] = ()

    def reducing(self) -> list[Layer]:
        """What blocks run as `bottleneck_reduce`."""
        return [layer for layer in self.convolutions if layer.reduces]

    def expanding(self, projection: bool) -> list[Layer]:
        """What blocks run as `bottleneck_expand`, with a projection in the same launch or without."""
        expands = (layer for layer in self.convolutions if layer.expands)
        return [layer for layer in expands if projection == (layer.projection is not None)]

    def first(self, count: int | None) -> Network:
        """With only so many convolutions and blocks, and a third of that of everything else; None: all."""
        if count is None:
            return self
        few = -(-count // 3)
        return Network(
            self.convolutions[:count],
            self.batch_norms[:few],
            self.additions[:few],
            self.max_pools[:few],
            self.average_pools[:few],
            self.blocks[:count],
            self.stems[:few],
        )

    def pooled_stems(self) -> list[Stem]:
        """Those that one launch can compute at inference."""
        return [stem for stem in self.stems if stem.is_fused]


def is_pointwise(conv: ConvProblem) -> bool:
    """Whether it is a 1x1 convolution without padding or groups."""
    return (conv.R, conv.S, conv.padding, conv.groups) == (1, 1, 0, 1)


def shape_name(shape: Sequence[int]) -> str:
    """[N, C, H, W] -> "n8-64x56x56"."""
    return f"n{shape[0]}-" + "x".join(map(str, shape[1:]))


def network(name: str, batch: int, image_size: int) -> Network:
    """The parts of a model of `resnet_cuda.models`, for images [batch, 3, image_size, image_size].

    Raises:
        ValueError: there is no such model.
    """
    return trace(_on_meta(name), (batch, 3, image_size, image_size))


@cache
def _on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return unfuse(models.create_model(name), inplace=True)


def trace(model: nn.Module, shape: Sequence[int]) -> Network:
    """The parts of a module (on the meta device, of plain modules) for an input of `shape`.

    Square strides, paddings and dilations only, as residual networks have them.
    """
    follow = _Follow()
    blocks: list[Block] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        blocks.append(Block(module, _shape(inputs[0])))

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, _BLOCKS):
                stack.callback(module.register_forward_pre_hook(note).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(follow)
        images = torch.empty(tuple(shape), device="meta")
        follow.keep(images)
        training = model.training
        model.eval()
        try:
            model(images)
        finally:
            model.train(training)
    return Network(
        merge(f.layer() for f in follow.flows if f.conv),
        merge(Elementwise(f.shape, f.residual, f.relu) for f in follow.flows if f.batch_norm),
        merge(Elementwise(f.shape, True, f.relu) for f in follow.flows if f.residual),
        merge(p for p in follow.pools if p.kernel),
        merge(p for p in follow.pools if not p.kernel),
        _distinct_blocks(blocks),
        merge(follow.stems),
    )


class _Flow:
    """One chain conv -> batch norm -> add -> ReLU, with any of them missing."""

    def __init__(self, shape: Shape, conv: ConvProblem | None = None, leaf: bool = False) -> None:
        self.shape, self.conv, self.leaf = shape, conv, leaf
        self.batch_norm = self.residual = self.relu = False
        self.projection: ConvProblem | None = None

    def layer(self) -> Layer:
        assert self.conv is not None
        if not self.batch_norm:  # what follows belongs to something else
            return Layer(self.conv, input_gradient=not self.leaf)
        layer = Layer(self.conv, True, self.residual, self.relu, None, not self.leaf)
        return replace(layer, projection=self.projection) if layer.expands else layer


class _Follow(TorchDispatchMode):
    """Watches ATen ops go by and ties them together by the tensors that they hand on."""

    def __init__(self) -> None:
        super().__init__()
        self.flows: list[_Flow] = []
        self.pools: list[Pool] = []
        self.stems: list[Stem] = []
        self._of: dict[int, _Flow] = {}  # by id of the tensor that the chain last produced
        self._alive: list[Any] = []  # so that no id is used twice
        self._leaves: set[int] = set()

    def keep(self, images: Tensor) -> None:
        """`images` is the network's input."""
        self._alive.append(images)
        self._leaves.add(id(images))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._alive.append((args, out))
        op = func.overloadpacket
        if op is _aten.convolution:
            self._convolution(args, out)
        elif op is _aten.native_batch_norm:
            self._batch_norm(args[0], out[0])
        elif op in (_aten.add, _aten.add_) and isinstance(args[1], Tensor) and args[1].dim() == 4:
            self._add(args[0], args[1], out)
        elif op in (_aten.relu, _aten.relu_):
            self._relu(args[0], out)
        elif op is _aten.max_pool2d_with_indices:
            self._max_pool(args[0], Pool(_shape(args[0]), *_window(*args[1:])))
        elif op is _aten.mean and args[0].dim() == 4:
            self.pools.append(Pool(_shape(args[0])))
        return out

    def _start(self, flow: _Flow, out: Tensor) -> _Flow:
        self.flows.append(flow)
        self._of[id(out)] = flow
        return flow

    def _convolution(self, args: Sequence[Any], out: Tensor) -> None:
        x, weight, _, stride, padding, dilation, _, _, groups = args
        n, c, h, w = x.shape
        k, _, r, s = weight.shape
        geometry = (stride[0], padding[0], dilation[0], groups)
        conv = ConvProblem(n, c, h, w, k, r, s, *geometry)
        self._start(_Flow(_shape(out), conv, id(x) in self._leaves), out)

    def _batch_norm(self, y: Tensor, out: Tensor) -> None:
        flow = self._of.pop(id(y), None)
        if flow is None or flow.batch_norm or flow.residual or flow.relu:
            flow = self._start(_Flow(_shape(out)), out)
        flow.batch_norm = True
        self._of[id(out)] = flow

    def _add(self, x: Tensor, residual: Tensor, out: Tensor) -> None:
        flow = self._of.pop(id(x), None)
        if flow is None or flow.residual or flow.relu:
            flow = self._start(_Flow(_shape(out)), out)
        flow.residual = True
        other = self._of.get(id(residual))
        if other is not None and other.batch_norm and not (other.residual or other.relu):
            flow.projection = other.conv
        self._of[id(out)] = flow

    def _relu(self, x: Tensor, out: Tensor) -> None:
        flow = self._of.get(id(x))
        if flow is not None and not flow.relu:
            flow.relu = True
            self._of[id(out)] = flow

    def _max_pool(self, x: Tensor, pool: Pool) -> None:
        self.pools.append(pool)
        flow = self._of.get(id(x))
        if flow is not None and flow.conv and flow.batch_norm and flow.relu and not flow.residual:
            self.stems.append(Stem(flow.layer(), pool))


P = TypeVar("P", Layer, Elementwise, Pool, Stem)


def merge(parts: Iterable[P]) -> list[P]:
    """The distinct ones in the order of their first appearance; the counts of equal ones add up."""
    counts: Counter[P] = Counter()
    for part in parts:
        counts[replace(part, count=1)] += part.count
    return [replace(part, count=count) for part, count in counts.items()]


def _distinct_blocks(blocks: Iterable[Block]) -> list[Block]:
    """Two blocks are the same if they print the same: torch's modules print all their sizes."""
    found: dict[tuple[str, Shape], Block] = {}
    for block in blocks:
        key = repr(block.module), block.shape
        count = found[key].count + 1 if key in found else 1
        found[key] = replace(block, count=count)
    return list(found.values())


def _window(
    kernel: Sequence[int], stride: Sequence[int] = (), padding: Sequence[int] = (0,), *_: Any
) -> tuple[int, int, int]:
    return kernel[0], (stride or kernel)[0], padding[0]


def _shape(tensor: Tensor) -> Shape:
    n, c, h, w = tensor.shape
    return n, c, h, w
