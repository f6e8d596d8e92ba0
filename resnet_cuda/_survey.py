"""What of a model runs fused, and why the rest does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import fx, nn

from resnet_cuda._recognised import fused_class_of, is_fused, plain_class_of
from resnet_cuda.nn import FusedStage
from resnet_cuda.nn._fused import FusedModule, swapped_class
from resnet_cuda.nn._fused_block import FusedBlock
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker
from resnet_cuda.nn.fused_forward import ForwardPlan, FusedForward, plan_forward
from resnet_cuda.nn.fused_stage import conv_runs


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


class _Edge(NamedTuple):
    parent: nn.Module
    path: str


class _Blocked(NamedTuple):
    reason: str
    parts: list[nn.Module]


class Survey:
    """Decides for every module of a model whether its class is swapped, and writes the report."""

    def __init__(self, model: nn.Module) -> None:
        self.report = FuseReport()
        self.swaps: list[tuple[nn.Module, type[FusedModule]]] = []
        self.plans: list[tuple[nn.Module, ForwardPlan]] = []  # for what is fused in its own forward
        self._edges: dict[int, list[_Edge]] = {}
        self._explained: set[int] = set()  # modules that the report already speaks for
        self._blocks: set[int] = set()  # those that are or will be fused
        self._blocked: dict[int, _Blocked] = {}  # of recognised classes, not fused as a whole
        self._untraced: dict[int, str] = {}  # why nothing in a module's own forward is
        for path, parent in model.named_modules():
            for name, child in parent._modules.items():
                if child is not None:
                    edge = _Edge(parent, f"{path}.{name}" if path else name)
                    self._edges.setdefault(id(child), []).append(edge)
        modules = list(model.named_modules())
        for visit in (
            self._visit_recognised,
            self._visit_sequential,
            self._visit_forward,
            self._visit_rest,
        ):
            for path, module in modules:
                visit(path, module)
        position = {path: i for i, (path, _) in enumerate(modules)}
        for entries in (self.report.fused, self.report.left):
            entries.sort(key=lambda entry: position[entry.path])

    def _visit_recognised(self, path: str, module: nn.Module) -> None:
        """Modules of classes that are fused as a whole."""
        plain = plain_class_of(module)
        cls = fused_class_of(plain)
        if cls is None or issubclass(cls, FusedStage):
            return
        parts = list(cls.parts_of(module))
        reason = _replaced(module) or self._sharing(parts)
        if reason is None:
            reason = cls.blocker_of(module)
            if reason is not None and type(module) is not cls:
                self._blocked[id(module)] = _Blocked(reason, parts)  # its own forward may have runs
                return
        self._explain(module, *parts)
        if reason is not None:
            self._leave(path, plain, reason)
            return
        self._fuse(path, module, plain, cls, cls.note_of(module))
        if issubclass(cls, FusedBlock):
            self._blocks.add(id(module))

    def _visit_sequential(self, path: str, module: nn.Module) -> None:
        if type(module) not in (nn.Sequential, FusedStage) or id(module) in self._explained:
            return
        children = list(module.children())
        runs = list(conv_runs(children))
        blocks = sum(id(child) in self._blocks for child in children)
        if not runs and not blocks:
            return
        parts = [part for i, run in runs for part in children[i : i + run.length]]
        reason = _replaced(module) or self._sharing(parts)
        self._explain(*parts)
        if reason is not None:
            self._leave(path, nn.Sequential, reason)
            return
        notes = [f"{blocks} blocks"] if blocks else []
        notes += [f"{len(runs)} conv + bn (+ relu) runs"] if runs else []
        self._fuse(path, module, nn.Sequential, FusedStage, ", ".join(notes))

    def _visit_forward(self, path: str, module: nn.Module) -> None:
        """Modules whose own forward has runs of children."""
        if not self._may_have_runs(module):
            return
        plain, blocked = plain_class_of(module), self._blocked.get(id(module))
        cls = swapped_class(plain, FusedForward)
        plan = plan_forward(module)
        parts = [module.get_submodule(name) for name in plan.parts]
        reason = _replaced(module) or self._sharing(parts) or plan.reason
        if reason:
            self._untraced[id(module)] = reason
            if blocked is not None:
                self._explain(module, *blocked.parts)
                self._leave(path, plain, blocked.reason)
            return
        self._explain(module, *parts)
        note = "forward: " + ", ".join(plan.runs)
        if blocked is not None:
            note += f" (not as a whole: {blocked.reason})"
        self._fuse(path, module, plain, cls, note)
        self.plans.append((module, plan))

    def _may_have_runs(self, module: nn.Module) -> bool:
        if id(module) in self._explained or plain_class_of(module).__module__.startswith("torch."):
            return False
        if isinstance(module, FusedModule) and not is_fused(module):
            return False  # a user's subclass of a fused class
        if isinstance(module, (fx.GraphModule, torch.jit.ScriptModule)):
            return False
        containers = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
        nested = [m for m in module.children() if isinstance(m, containers)]
        children = [child for parent in (module, *nested) for child in parent.children()]
        return any(isinstance(child, nn.Conv2d) for child in children)

    def _visit_rest(self, path: str, module: nn.Module) -> None:
        """Convolutions and batch norms that nothing above covers."""
        kinds = (nn.Conv2d, nn.modules.batchnorm._BatchNorm)
        if id(module) in self._explained or not isinstance(module, kinds):
            return
        edges = self._edges.get(id(module), [])
        parent = edges[0].parent if edges else None
        is_conv = isinstance(module, nn.Conv2d)
        reason = conv_blocker(module) if is_conv else batch_norm_blocker(module)
        if reason is None:
            reason = self._sharing([module])
        if reason is None and parent is not None and id(parent) in self._untraced:
            reason = f"its parent {type(parent).__name__} is left: {self._untraced[id(parent)]}"
        if reason is None and (isinstance(parent, nn.Sequential) or id(parent) in self._explained):
            reason = (
                "is not followed by a batch norm alone"
                if is_conv
                else "does not follow a convolution"
            )
        if reason is None:
            reason = _why_unknown(parent)
        self._leave(path, type(module), reason)

    def _sharing(self, parts: list[nn.Module]) -> str | None:
        for part in parts:
            edges = self._edges.get(id(part), [])
            if len(edges) > 1 and isinstance(part, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):
                return f"{edges[0].path} is shared with {edges[1].path}"
        return None

    def _explain(self, *modules: nn.Module) -> None:
        self._explained.update(id(module) for module in modules)

    def _leave(self, path: str, plain: type[nn.Module], reason: str) -> None:
        self.report.left.append(FuseEntry(path, plain.__name__, reason))

    def _fuse(
        self,
        path: str,
        module: nn.Module,
        plain: type[nn.Module],
        cls: type[FusedModule],
        note: str,
    ) -> None:
        self.report.fused.append(FuseEntry(path, plain.__name__, note))
        if type(module) is not cls:
            self.swaps.append((module, cls))


def _replaced(module: nn.Module) -> str | None:
    return "has a replaced forward" if "forward" in module.__dict__ else None


def _why_unknown(parent: nn.Module | None) -> str:
    if parent is None:
        return "is the whole model"
    return f"its parent {type(parent).__name__} is not a class that fuse() recognises"
