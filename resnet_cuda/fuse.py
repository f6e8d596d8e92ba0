"""`fuse` and `unfuse`: the same model object graph, other classes.

Fusing swaps a module's class for a fused subclass of it. Parameters, buffers, attributes, hooks, training
flags and state-dict keys stay what and where they are; unfusing swaps the class back. No weight is ever
changed: batch norm is folded on the fly at inference (see `resnet_cuda.ops`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from resnet_cuda.models import PreActResNet, ResNet
from resnet_cuda.models._fused_resnet import FusedResNet, FusedTimmResNet
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
from resnet_cuda.nn._fused import FusedModule, swapped_class
from resnet_cuda.nn._fused_block import (
    TIMM_BASIC,
    TIMM_BOTTLENECK,
    TORCHVISION_BASIC,
    TORCHVISION_BOTTLENECK,
    FusedBlock,
)
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker
from resnet_cuda.nn.fused_stage import conv_run
from resnet_cuda.ops._branch import check_memory


class TorchvisionBasicBlock(FusedBlock):
    """Mixin for torchvision.models.resnet.BasicBlock."""

    layout = TORCHVISION_BASIC


class TorchvisionBottleneck(FusedBlock):
    """Mixin for torchvision.models.resnet.Bottleneck."""

    layout = TORCHVISION_BOTTLENECK


class TimmBasicBlock(FusedBlock):
    """Mixin for timm.models.resnet.BasicBlock."""

    layout = TIMM_BASIC


class TimmBottleneck(FusedBlock):
    """Mixin for timm.models.resnet.Bottleneck."""

    layout = TIMM_BOTTLENECK


# Other packages' classes by module and name: neither package is imported here.
_FOREIGN: dict[tuple[str, str], type[FusedModule]] = {
    ("torchvision.models.resnet", "BasicBlock"): TorchvisionBasicBlock,
    ("torchvision.models.resnet", "Bottleneck"): TorchvisionBottleneck,
    ("torchvision.models.resnet", "ResNet"): FusedResNet,
    ("timm.models.resnet", "BasicBlock"): TimmBasicBlock,
    ("timm.models.resnet", "Bottleneck"): TimmBottleneck,
    ("timm.models.resnet", "ResNet"): FusedTimmResNet,
}

_OWN: dict[type[nn.Module], type[FusedModule]] = {
    cls.plain_class: cls
    for cls in (
        *(AddReLU, BNReLU, BasicBlock, Bottleneck, ConvBNReLU, FusedStage),
        *(PreActBasicBlock, PreActBottleneck, WideBasicBlock, ResNet, PreActResNet),
    )
}


def fused_class_of(plain: type[nn.Module]) -> type[FusedModule] | None:
    """The fused subclass for exactly this class, or None where there is none."""
    mixin = _FOREIGN.get((plain.__module__, plain.__qualname__))
    return _OWN.get(plain) if mixin is None else swapped_class(plain, mixin)


@dataclass(frozen=True)
class FuseEntry:
    """One module of the model: its path, its (plain) class name, and what was done or why nothing was."""

    path: str
    kind: str
    note: str


@dataclass
class FuseReport:
    """What `fuse` did to a model, and what it left as it was, with the reason. `str()` gives a table."""

    fused: list[FuseEntry] = field(default_factory=list)
    left: list[FuseEntry] = field(default_factory=list)

    def __str__(self) -> str:
        lines: list[str] = []
        for title, entries in (("fused", self.fused), ("left as it is", self.left)):
            lines.append(f"{title}: {len(entries)}")
            rows = [(e.path or "(the model)", e.kind, e.note) for e in entries]
            widths = [max((len(row[i]) for row in rows), default=0) for i in range(2)]
            lines += [f"  {p:{widths[0]}}  {k:{widths[1]}}  {note}" for p, k, note in rows]
        return "\n".join(lines)


def fuse(model: nn.Module, *, inplace: bool = False, memory: str | None = None) -> nn.Module:
    """`model` with the same weights and state-dict keys, but fused residual blocks, stems and conv + bn runs.

    Recognised, by exact class: BasicBlock, Bottleneck and ResNet of torchvision, timm and this package's
    `reference`; Conv2d + BatchNorm2d (+ ReLU) runs inside plain nn.Sequential. An nn.SyncBatchNorm is as good as
    a BatchNorm2d. Everything else stays as it is. `fuse.report` holds what the last call did, what not, and why;
    `fuse_report(model)` tells the same about any model at any time.

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
    survey = _Survey(model)
    for module, cls in survey.swaps:
        module.__class__ = cls
    for block in model.modules():
        if isinstance(block, FusedBlock) and memory is not None:
            block.memory = memory
    fuse.report = survey.report  # type: ignore[attr-defined]
    return model


def fuse_report(model: nn.Module) -> FuseReport:
    """What of `model` runs fused now or would after `fuse`, and what not, with the reason. Changes nothing."""
    _check_module(model)
    return _Survey(model).report


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
        if isinstance(module, FusedModule) and fused_class_of(module.plain_class) is type(module):
            module.clear_folded()
            module.__class__ = module.plain_class  # type: ignore[assignment]
    return model


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, which belongs to the same process groups: these cannot be copied."""
    groups = (m.process_group for m in model.modules() if isinstance(m, nn.SyncBatchNorm))
    return copy.deepcopy(model, {id(group): group for group in groups if group is not None})


def _check_module(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")


class _Edge(NamedTuple):
    parent: nn.Module
    path: str


class _Survey:
    """Decides for every module of a model whether its class is swapped, and writes the report."""

    def __init__(self, model: nn.Module) -> None:
        self.report = FuseReport()
        self.swaps: list[tuple[nn.Module, type[FusedModule]]] = []
        self._edges: dict[int, list[_Edge]] = {}
        self._explained: set[int] = set()  # modules that the report already speaks for
        self._blocks: set[int] = set()  # those that are or will be fused
        for path, parent in model.named_modules():
            for name, child in parent._modules.items():
                if child is not None:
                    edge = _Edge(parent, f"{path}.{name}" if path else name)
                    self._edges.setdefault(id(child), []).append(edge)
        modules = list(model.named_modules())
        for path, module in modules:
            self._visit_recognised(path, module)
        for path, module in modules:
            self._visit_sequential(path, module)
        for path, module in modules:
            self._visit_rest(path, module)
        position = {path: i for i, (path, _) in enumerate(modules)}
        for entries in (self.report.fused, self.report.left):
            entries.sort(key=lambda entry: position[entry.path])

    def _visit_recognised(self, path: str, module: nn.Module) -> None:
        plain, cls = _classes(module)
        if cls is None or issubclass(cls, FusedStage):
            return
        parts = list(cls.parts_of(module))
        self._explained.update(id(part) for part in parts)
        self._explained.add(id(module))
        reason = self._blocker(module, cls, parts)
        if reason is not None:
            self.report.left.append(FuseEntry(path, plain.__name__, reason))
            return
        self.report.fused.append(FuseEntry(path, plain.__name__, cls.note_of(module)))
        if issubclass(cls, FusedBlock):
            self._blocks.add(id(module))
        if type(module) is not cls:
            self.swaps.append((module, cls))

    def _blocker(
        self, module: nn.Module, cls: type[FusedModule], parts: list[nn.Module]
    ) -> str | None:
        if "forward" in module.__dict__:
            return "has a replaced forward"
        return self._sharing(parts) or cls.blocker_of(module)

    def _sharing(self, parts: list[nn.Module]) -> str | None:
        for part in parts:
            edges = self._edges.get(id(part), [])
            if len(edges) > 1 and isinstance(part, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):
                return f"{edges[0].path} is shared with {edges[1].path}"
        return None

    def _visit_sequential(self, path: str, module: nn.Module) -> None:
        if type(module) not in (nn.Sequential, FusedStage) or id(module) in self._explained:
            return
        children = list(module.children())
        runs = list(_runs(children))
        blocks = sum(id(child) in self._blocks for child in children)
        if not runs and not blocks:
            return
        parts = [part for i, length in runs for part in children[i : i + length]]
        reason = "has a replaced forward" if "forward" in module.__dict__ else self._sharing(parts)
        if reason is not None:
            self._explained.update(id(part) for part in parts)
            self.report.left.append(FuseEntry(path, "Sequential", reason))
            return
        self._explained.update(id(part) for part in parts)
        notes = [f"{blocks} blocks"] if blocks else []
        notes += [f"{len(runs)} conv + bn (+ relu) runs"] if runs else []
        self.report.fused.append(FuseEntry(path, "Sequential", ", ".join(notes)))
        if type(module) is not FusedStage:
            self.swaps.append((module, FusedStage))

    def _visit_rest(self, path: str, module: nn.Module) -> None:
        """Convolutions and batch norms that nothing above covers."""
        kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)
        if id(module) in self._explained or not isinstance(module, kinds):
            return
        edges = self._edges.get(id(module), [])
        parent = edges[0].parent if edges else None
        reason = conv_blocker(module) if isinstance(module, nn.Conv2d) else None
        if reason is None and len(edges) > 1:
            reason = f"{edges[0].path} is shared with {edges[1].path}"
        if reason is None and not isinstance(module, nn.Conv2d):
            reason = batch_norm_blocker(module)
        if reason is None and isinstance(parent, nn.Sequential):
            is_conv = isinstance(module, nn.Conv2d)
            reason = (
                "is not followed by a batch norm" if is_conv else "does not follow a convolution"
            )
        if reason is None:
            reason = _why_unknown(parent)
        self.report.left.append(FuseEntry(path, type(module).__name__, reason))


def _classes(module: nn.Module) -> tuple[type[nn.Module], type[FusedModule] | None]:
    """(plain class, its fused class) of a module that may already be fused."""
    plain = type(module)
    if isinstance(module, FusedModule) and fused_class_of(module.plain_class) is plain:
        return module.plain_class, plain
    return plain, fused_class_of(plain)


def _runs(children: list[nn.Module]) -> Iterator[tuple[int, int]]:
    i = 0
    while i < len(children):
        run = conv_run(children, i)
        if run is None:
            i += 1
        else:
            yield i, run.length
            i += run.length


def _why_unknown(parent: nn.Module | None) -> str:
    if parent is None:
        return "is the whole model"
    cls = type(parent)
    for base in cls.__mro__[1:]:
        if fused_class_of(base) is not None:
            return f"its parent {cls.__name__} is a subclass of {base.__name__}; only the exact class is fused"
    return f"its parent {cls.__name__} is not a class that fuse() recognises"
