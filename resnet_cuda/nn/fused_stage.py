"""A sequence of modules that owns what flows between its children."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from resnet_cuda import _backend
from resnet_cuda.nn._fused import FusedModule, is_traced
from resnet_cuda.nn._fused_block import FusedBlock
from resnet_cuda.nn._units import (
    batch_norm_blocker,
    conv_blocker,
    pool_window,
    run_pooled_unit,
    run_unit,
    touched,
)
from resnet_cuda.ops.max_pool2d import PoolWindow


class ModuleRow(FusedModule):
    """Mixin of modules that call their children in a row.

    - Each run of Conv2d, BatchNorm2d or SyncBatchNorm (, ReLU (, MaxPool2d)) is one fused call, and
    - at inference a fused block overwrites its input where that is the previous fused block's output, which nobody
      else holds: half the activation traffic of an identity shortcut. Where the backend computes one bottleneck's end
      and the next one's beginning in one pass, the first hands over both, unless it computes a whole block in one.
      Hooks on either block, or global module hooks, could hold what flows between them and therefore switch this off.
    """

    def run_row(self, children: Sequence[nn.Module], x: Tensor, first: int = 0) -> Tensor:
        """children[-1](... children[0](x)); first: the position in this module of children[0]."""
        may_bypass = not (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or _has_global_hooks()
        )
        may_chain = may_bypass and _backend.resolve(x).fuses_next_reduce
        blocks = [c if may_bypass and _may_bypass_call(c) else None for c in children]
        blocks.append(None)  # behind the last child
        owned = False  # nobody but this loop holds x
        begun: Tensor | None = None  # what the block before has made of x for this one
        i = 0
        while i < len(children):
            block = blocks[i]
            if block is not None:
                x, begun = block.run_chained(x, owned, begun, blocks[i + 1] if may_chain else None)
                owned = True
                i += 1
                continue
            owned = False
            run = conv_run(children, i)
            if run is None:
                x = children[i](x)
                i += 1
            else:
                x = self._run_convolution(children, i, run, str(first + i), x)
                i += run.length
        return x

    def _run_convolution(
        self, children: Sequence[nn.Module], i: int, run: ConvRun, name: str, x: Tensor
    ) -> Tensor:
        cache = partial(self.folded, name)
        if run.pool is not None:
            return run_pooled_unit(x, children[i], children[i + 1], cache, run.pool)
        return run_unit(x, children[i], children[i + 1], run.relu, cache)


class FusedStage(ModuleRow, nn.Sequential):
    """`nn.Sequential` with the same children and keys, run as a `ModuleRow`."""

    plain_class = nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        if is_traced(x):
            out: Tensor = super().forward(x)
            return out
        return self.run_row(list(self), x)


class ConvRun(NamedTuple):
    """A convolution, its batch norm and perhaps a ReLU in a row of modules."""

    length: int
    relu: bool
    pool: PoolWindow | None = None  # behind the ReLU


def conv_run(children: Sequence[nn.Module], i: int) -> ConvRun | None:
    """The fusable run that starts at `children[i]`, if one does."""
    if i + 1 >= len(children) or type(children[i]) is not nn.Conv2d:
        return None
    if conv_blocker(children[i]) is not None:
        return None
    if batch_norm_blocker(children[i + 1]) is not None:
        return None
    relu = i + 2 < len(children) and touched(children[i + 2], nn.ReLU) is None
    pool = pool_window(children[i + 3]) if relu and i + 3 < len(children) else None
    return ConvRun(2 + relu + (pool is not None), relu, pool)


def conv_runs(children: Sequence[nn.Module]) -> Iterator[tuple[int, ConvRun]]:
    """(position, run) of all runs in a row of modules."""
    i = 0
    while i < len(children):
        run = conv_run(children, i)
        if run is not None:
            yield i, run
        i += 1 if run is None else run.length


def _may_bypass_call(block: nn.Module) -> TypeGuard[FusedBlock]:
    """Calling `run_fused` directly means the same as calling the block."""
    return (
        isinstance(block, FusedBlock)
        and type(block).forward is FusedBlock.forward
        and not block._forward_hooks
        and not block._forward_pre_hooks
        and not block._backward_hooks
        and not block._backward_pre_hooks
        and "forward" not in block.__dict__
        and not block.training
        and block.blocker() is None
    )


def _has_global_hooks() -> bool:
    return bool(
        torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )
