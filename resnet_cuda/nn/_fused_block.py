"""A residual block as a description: its convolution units and its shortcut, handed to `ops.residual_branch`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._recording import announce
from resnet_cuda.nn._units import (
    batch_norm_blocker,
    batch_norm_call,
    conv_blocker,
    conv_unit_of,
    neutral_blocker,
    touched,
)
from resnet_cuda.ops import ConvUnit, Identity, ZeroPad, residual_branch
from resnet_cuda.ops._branch import BranchOptions, check_memory
from resnet_cuda.reference.blocks import ZeroPadShortcut

Shortcut = ConvUnit | Identity | ZeroPad


class BlockLayout(NamedTuple):
    """The names of a block class's children, in order."""

    pairs: tuple[tuple[str, str], ...]  # (conv, bn) of the residual branch
    activations: tuple[str, ...]
    neutral: tuple[str, ...] = ()  # children that must be absent or an identity


TORCHVISION_BASIC = BlockLayout((("conv1", "bn1"), ("conv2", "bn2")), ("relu",))
TORCHVISION_BOTTLENECK = BlockLayout(
    (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")), ("relu",)
)
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
        last = len(self.layout.pairs) - 1
        units = [
            self._unit(x, getattr(self, conv), getattr(self, bn), i < last, conv)
            for i, (conv, bn) in enumerate(self.layout.pairs)
        ]
        shortcut = self._shortcut(x)
        options = BranchOptions(self.memory, self.closed_form)
        announce(x, units, shortcut, options=options)
        return residual_branch(
            x,
            units,
            shortcut,
            donate_input=donate_input,
            **options._asdict(),
        )

    @classmethod
    def blocker_of(cls, module: Any) -> str | None:
        layout = cls.layout
        for conv, bn in layout.pairs:
            reason = conv_blocker(getattr(module, conv))
            if reason is not None:
                return f"{conv} {reason}"
            reason = batch_norm_blocker(getattr(module, bn))
            if reason is not None:
                return f"{bn} {reason}"
        for name in layout.activations:
            reason = touched(getattr(module, name), nn.ReLU)
            if reason is not None:
                return f"{name} {reason}"
        for name in layout.neutral:
            reason = neutral_blocker(getattr(module, name))
            if reason is not None:
                return f"{name} {reason}"
        return shortcut_blocker(module.downsample)

    @classmethod
    def parts_of(cls, module: Any) -> Iterable[nn.Module]:
        parts = [getattr(module, name) for pair in cls.layout.pairs for name in pair]
        return parts if module.downsample is None else [*parts, *module.downsample.modules()]

    @classmethod
    def note_of(cls, module: Any) -> str:
        count = f"{len(cls.layout.pairs)} convolutions"
        return f"{count} + projection" if isinstance(module.downsample, nn.Sequential) else count

    def _unit(
        self,
        x: Tensor,
        conv: nn.Conv2d,
        bn: nn.BatchNorm2d | nn.SyncBatchNorm,
        relu: bool,
        name: str,
    ) -> ConvUnit:
        call = batch_norm_call(bn, x)
        return conv_unit_of(conv, call, relu, None if call.training else self.folded(name))

    def _shortcut(self, x: Tensor) -> Shortcut:
        module = self.downsample
        if module is None or type(module) is nn.Identity:
            return Identity()
        if type(module) is ZeroPadShortcut:
            return ZeroPad(module.stride, module.out_channels)
        return self._unit(x, module[-2], module[-1], False, "downsample")


def shortcut_blocker(module: nn.Module | None) -> str | None:
    """Why a shortcut is neither the identity, nor zero-padding, nor a convolution with its batch norm."""
    if module is None:
        return None
    if type(module) is nn.Identity or type(module) is ZeroPadShortcut:
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
