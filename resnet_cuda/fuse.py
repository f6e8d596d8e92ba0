"""`fuse` and `unfuse`: the same model object graph, other classes.

Fusing swaps a module's class for a fused subclass of it. Parameters, buffers, attributes, hooks, training
flags and state-dict keys stay what and where they are; unfusing swaps the class back. No weight is ever
changed: batch norm is folded on the fly at inference (see `resnet_cuda.ops`).
"""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from resnet_cuda._recognised import is_fused
from resnet_cuda._survey import FuseEntry, FuseReport, Survey
from resnet_cuda.nn._fused import FusedModule
from resnet_cuda.nn._fused_block import FusedBlock
from resnet_cuda.nn.fused_forward import FusedForward
from resnet_cuda.ops._branch import check_memory

__all__ = ["FuseEntry", "FuseReport", "copied", "fuse", "fuse_report", "unfuse"]

# Of a fused model, too: its class is a subclass of the plain one.
_Model = TypeVar("_Model", bound=nn.Module)


def fuse(model: _Model, *, inplace: bool = False, memory: str | None = None) -> _Model:
    """`model` with the same weights and state-dict keys, but fused residual blocks, stems and conv + bn runs.

    Fused as a whole: BasicBlock, Bottleneck and ResNet of torchvision, timm and this package's `reference`, by exact
    class. Otherwise Conv2d, batch norm (, ReLU) in a row in nn.Sequential, and the same with an addition in the
    forward of any class that `torch.fx` can follow. An nn.SyncBatchNorm and torchvision's FrozenBatchNorm2d are as
    good as a BatchNorm2d. Everything else stays as it is. `fuse.report` holds what the last call did, what not, and
    why; `fuse_report(model)` tells the same about any model at any time. docs/fuse.md has the rules.

    Args:
        model: any module.
        inplace: change `model` itself instead of a deep copy.
        memory: what training keeps of a fused block for its backward pass: "save" (raw convolution outputs
            and bits) or "recompute" (its input alone, from which the forward runs again). Also an
            attribute of every fused block; None leaves it as it is ("save" at first).

    Raises:
        TypeError: model is not an nn.Module.
        ValueError: memory is not an accepted policy.
    """
    _check_module(model)
    if memory is not None:
        check_memory(memory)
    if not inplace:
        model = copied(model)
    survey = Survey(model)
    for module, cls in survey.swaps:
        module.__class__ = cls
    for module, plan in survey.plans:
        if isinstance(module, FusedForward):  # as it is by now
            module.follow(plan)
    for block in model.modules():
        if isinstance(block, FusedBlock) and memory is not None:
            block.memory = memory
    fuse.report = survey.report  # type: ignore[attr-defined]
    return model


def fuse_report(model: nn.Module) -> FuseReport:
    """What of `model` runs fused now or would after `fuse`, and what not, with the reason. Changes nothing."""
    _check_module(model)
    return Survey(model).report


def unfuse(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """The inverse of `fuse`: the original classes with the same weights and statistics.

    This package's own modules become their twins in `resnet_cuda.reference`. Subclasses that a user
    derived from them stay.

    Args:
        model: any module.
        inplace: change `model` itself instead of a deep copy.

    Raises:
        TypeError: model is not an nn.Module.
    """
    _check_module(model)
    if not inplace:
        model = copied(model)
    for module in model.modules():
        if isinstance(module, FusedModule) and is_fused(module):
            module.clear_derived()
            module.__class__ = module.plain_class  # type: ignore[assignment]
    return model


def copied(model: _Model) -> _Model:
    """A deep copy, which belongs to the same process groups: these cannot be copied."""
    groups = (m.process_group for m in model.modules() if isinstance(m, nn.SyncBatchNorm))
    return copy.deepcopy(model, {id(group): group for group in groups if group is not None})


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
