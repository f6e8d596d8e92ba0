"""A residual block as a description: its convolution units and its shortcut, handed to `ops.residual_branch`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._recording import announce, is_heard
from resnet_cuda.nn._units import (
    BatchCount,
    bare_unit_of,
    batch_norm_blocker,
    batch_norm_call,
    conv_blocker,
    conv_unit_of,
    neutral_blocker,
    own,
    touched,
)
from resnet_cuda.ops import ConvUnit, Identity, NormUnit, ZeroPad
from resnet_cuda.ops._branch import BranchOptions, check_memory
from resnet_cuda.ops.residual_branch import chained_branch
from resnet_cuda.reference.blocks import NoShortcut, ZeroPadShortcut

Shortcut = ConvUnit | Identity | ZeroPad
_PARAMETERLESS = (nn.Identity, ZeroPadShortcut, NoShortcut)


class BlockLayout(NamedTuple):
    """The names of a block class's children, in order."""

    pairs: tuple[tuple[str, str | None], ...]  # (conv, the bn behind it) of the residual branch
    activations: tuple[str, ...]
    neutral: tuple[str, ...] = ()  # children that must be absent or an identity
    entry: str | None = None  # the bn before the first conv; then no ReLU follows the sum
    dropout: str | None = None  # before the last conv


TORCHVISION_BASIC = BlockLayout((("conv1", "bn1"), ("conv2", "bn2")), ("relu",))
TORCHVISION_BOTTLENECK = BlockLayout(
    (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")), ("relu",)
)
PREACT_BASIC = BlockLayout((("conv1", "bn2"), ("conv2", None)), ("relu",), entry="bn1")
PREACT_BOTTLENECK = BlockLayout(
    (("conv1", "bn2"), ("conv2", "bn3"), ("conv3", None)), ("relu",), entry="bn1"
)
WIDE_BASIC = PREACT_BASIC._replace(dropout="dropout")
_TIMM_NEUTRAL = ("drop_block", "aa", "se", "drop_path")
TIMM_BASIC = BlockLayout((("conv1", "bn1"), ("conv2", "bn2")), ("act1", "act2"), _TIMM_NEUTRAL)
TIMM_BOTTLENECK = BlockLayout(
    (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    ("act1", "act2", "act3"),
    _TIMM_NEUTRAL,
)


class FusedBlock(FusedModule):
    """Runs a block's children as one `ops.residual_branch` call where that computes the same."""

    layout: ClassVar[BlockLayout]
    downsample: Any  # None or a module
    memory: str = "save"  # as `ops.residual_branch` has it
    closed_form: bool | None = None

    def __init__(self, *args: Any, memory: str = "save", **options: Any) -> None:
        check_memory(memory)
        super().__init__(*args, **options)
        self.memory = memory

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x) or self.blocker() is not None:
            out: Tensor = super().forward(x)
            return out
        return self.run_fused(x)

    def run_fused(self, x: Tensor, donate_input: bool = False) -> Tensor:
        """The fused computation; the caller has made sure that `blocker()` is None.

        donate_input: the caller owns x and allows the result to be written into it (inference only).
        """
        return self.run_chained(x, donate_input)[0]

    def run_chained(
        self,
        x: Tensor,
        donate_input: bool = False,
        begun: Tensor | None = None,
        follower: FusedBlock | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The same in a row of blocks at inference: the result, and what the follower has begun with it, if anything.

        begun: what the block before has begun: this block's first unit of x.
        follower: the block behind; its `blocker()` is None, too.
        """
        layout, children = self.layout, self._modules
        with BatchCount() as count:
            entry = None
            if layout.entry is not None:
                entry = NormUnit(*batch_norm_call(own(self, children, layout.entry), x, count))
            units = []
            last, _ = layout.pairs[-1]
            for conv, bn in layout.pairs:
                norm = None if bn is None else own(self, children, bn)
                units.append(
                    self._unit(x, own(self, children, conv), norm, conv is not last, conv, count)
                )
            if layout.dropout is not None:
                dropout = own(self, children, layout.dropout)
                if dropout.training:
                    units[-2].dropout = dropout.p
            shortcut = self._shortcut(x, count)
            if is_heard():
                options = BranchOptions(self.memory, self.closed_form)
                announce(x, units, shortcut, options=options, entry=entry, relu=entry is None)
            return chained_branch(
                x,
                units,
                shortcut,
                begun,
                None if entry is not None or follower is None else follower._first_unit(x),
                entry=entry,
                relu=entry is None,
                donate_input=donate_input,
                memory=self.memory,
                closed_form=self.closed_form,
            )

    def _first_unit(self, x: Tensor) -> ConvUnit | None:
        """What this block begins with, where that is a convolution of its input and nothing in it is trained."""
        conv, bn = self.layout.pairs[0]
        if self.layout.entry is not None or bn is None:
            return None
        if any(part.training for part in self.parts_of(self)):
            return None  # one call differentiates the block, and counts its batch
        return self._unit(x, getattr(self, conv), getattr(self, bn), True, conv, BatchCount())

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        layout, children = cls.layout, module._modules
        for name, _ in layout.pairs:
            reason = conv_blocker(own(module, children, name))
            if reason is not None:
                return f"{name} {reason}"
        for bn in (layout.entry, *(bn for _, bn in layout.pairs)):
            reason = bn and batch_norm_blocker(own(module, children, bn))
            if reason is not None:
                return f"{bn} {reason}"
        if layout.dropout is not None:
            reason = touched(own(module, children, layout.dropout), nn.Dropout)
            if reason is not None:
                return f"{layout.dropout} {reason}"
        for name in layout.activations:
            reason = touched(own(module, children, name), nn.ReLU)
            if reason is not None:
                return f"{name} {reason}"
        for name in layout.neutral:
            reason = neutral_blocker(own(module, children, name))
            if reason is not None:
                return f"{name} {reason}"
        downsample = own(module, children, "downsample")
        if downsample is None:
            return None
        if layout.entry is not None and isinstance(downsample, nn.Conv2d):
            reason = conv_blocker(downsample)
            return None if reason is None else f"downsample {reason}"
        return shortcut_blocker(downsample)

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        layout = cls.layout
        names = [layout.entry, *(name for pair in layout.pairs for name in pair), layout.dropout]
        parts = [getattr(module, name) for name in names if name is not None]
        return parts if module.downsample is None else [*parts, *module.downsample.modules()]

    @classmethod
    def note_of(cls, module: Any) -> str:
        count = f"{len(cls.layout.pairs)} convolutions"
        projects = isinstance(module.downsample, (nn.Sequential, nn.Conv2d))
        return f"{count} + projection" if projects else count

    def _unit(
        self,
        x: Tensor,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d | nn.SyncBatchNorm | None,
        relu: bool,
        name: str,
        count: BatchCount,
    ) -> ConvUnit:
        if bn is None:
            return bare_unit_of(conv)
        call = batch_norm_call(bn, x, count)
        return conv_unit_of(conv, call, relu, None if call.training else self.folded(name))

    def _shortcut(self, x: Tensor, count: BatchCount) -> Shortcut | None:
        module = own(self, self._modules, "downsample")
        if type(module) is NoShortcut:
            return None
        if module is None or type(module) is nn.Identity:
            return Identity()
        if type(module) is ZeroPadShortcut:
            return ZeroPad(module.stride, module.out_channels)
        if type(module) is nn.Conv2d:
            return bare_unit_of(module)
        return self._unit(x, module[-2], module[-1], False, "downsample", count)


def shortcut_blocker(module: nn.Module | None) -> str | None:
    """Why a shortcut is neither absent, nor the identity, nor zero-padding, nor a convolution with its batch norm."""
    if module is None:
        return None
    if type(module) in _PARAMETERLESS:
        reason = touched(module, type(module))
        return None if reason is None else f"downsample {reason}"
    reason = touched(module, nn.Sequential)
    if reason is not None:
        return f"downsample {reason}"
    children = list(module.children())
    # timm's average-pooling shortcut starts with an identity where there is nothing to pool.
    if len(children) == 3 and neutral_blocker(children[0]) is None:
        children = children[1:]
    if len(children) != 2:
        return f"downsample has {len(children)} children, not a convolution and its batch norm"
    reason = conv_blocker(children[0])
    if reason is not None:
        return f"downsample convolution {reason}"
    reason = batch_norm_blocker(children[1])
    return None if reason is None else f"downsample batch norm {reason}"
