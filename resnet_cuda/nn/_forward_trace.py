"""A module's own forward as a graph of calls to its children, where following it once is as good as running it.

`torch.fx` runs the forward with stand-ins for tensors. What Python decides on the way is decided for good, so that a
graph is only trusted where nothing is decided by what a value is (`isinstance`, `is None`), by global switches or by
chance, and where nothing is changed on the side. What it does decide by, the module's own attributes, is returned:
the graph holds as long as their `fingerprint` does.
"""

from __future__ import annotations

import ast
import gc
import inspect
import operator
import random
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from resnet_cuda.nn._units import touched

_TORCH = str(Path(torch.__file__).parent)
_STANDARD_LIBRARY = sysconfig.get_path("stdlib")
_PACKAGE = str(Path(__file__).parent)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
# Classes that do nothing in evaluation, by module and name: other packages are not imported here.
_QUIET = {
    ("torch.nn.modules.dropout", "Dropout"),
    ("torch.nn.modules.dropout", "Dropout2d"),
    ("timm.layers.drop", "DropPath"),
    ("timm.layers.drop", "DropBlock2d"),
    ("torchvision.ops.stochastic_depth", "StochasticDepth"),
}
# Functions that ask what a value is. Of a stand-in they would learn the wrong thing.
_QUESTIONS = {"isinstance", "issubclass", "type", "hasattr", "getattr", "callable", "len", "id"}
# Switches outside the module.
_SWITCHES = {"is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled", "is_compiling"}
_HARMLESS_DECORATORS = {"ignore", "unused", "override"}


class Untraceable(Exception):
    """Why a forward cannot be followed."""


class ForwardTrace(NamedTuple):
    """graph: the forward's calls, every child a leaf. attributes: what else of the module the forward may read."""

    graph: fx.Graph
    attributes: tuple[str, ...]


def trace_forward(module: nn.Module, plain: type[nn.Module]) -> ForwardTrace:
    """The forward of `plain`, the (unfused) class of `module`, for one tensor x, in the module's present mode.

    Raises:
        Untraceable: the graph could mean something else than the forward.
    """
    _check_signature(plain)
    state = dict(module.__dict__)
    chance = random.getstate(), torch.random.get_rng_state()
    with _recorded_calls(module) as calls:
        try:
            graph = _ShallowTracer().trace(module)
        except Exception as error:  # forward is anybody's code
            raise Untraceable(f"torch.fx cannot follow its forward: {_first_line(error)}") from None
        finally:
            added = set(module.__dict__) - set(state)  # constants that torch.fx registers
            for name in added:
                del module.__dict__[name]
    if added or any(module.__dict__[name] is not value for name, value in state.items()):
        raise Untraceable("its forward makes or changes attributes")
    if random.getstate() != chance[0] or not torch.equal(torch.random.get_rng_state(), chance[1]):
        raise Untraceable("its forward draws random numbers itself")
    if _has_dictionary(next(iter(reversed(graph.nodes))).args):
        raise Untraceable("its forward returns a dictionary")  # of a class that torch.fx forgets
    attributes: set[str] = set()
    for code, owner in calls.items():
        attributes |= _Reader(module, owner).read(code)
    return ForwardTrace(graph, tuple(sorted(attributes)))


def fingerprint(module: nn.Module, attributes: tuple[str, ...]) -> tuple[Any, ...]:
    """What `module`'s forward may decide by in one mode: `attributes`, of children their classes and whether somebody
    wants to see them run."""
    return tuple(_essence(getattr(module, name, None)) for name in attributes)


def is_quiet(child: nn.Module) -> bool:
    """Whether it is of a class that does nothing in evaluation, and evaluates."""
    return (type(child).__module__, type(child).__qualname__) in _QUIET and not child.training


def _essence(value: Any) -> Any:
    if isinstance(value, _CONTAINERS):
        return tuple((name, _essence(child)) for name, child in value.named_children())
    if isinstance(value, nn.Module):
        return type(value), is_quiet(value), touched(value, type(value))
    if isinstance(value, Tensor):
        return Tensor
    if isinstance(value, (tuple, list)):
        return tuple(_essence(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _essence(item)) for name, item in value.items())
    return value


_IN_PLACE = ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")


def _has_dictionary(result: Any) -> bool:
    if isinstance(result, (tuple, list)):
        return any(map(_has_dictionary, result))
    return isinstance(result, dict)


class _StandIn(fx.Proxy):
    """Keeps `x += y` apart from `x = x + y`, which torch.fx writes alike."""


def _in_place(name: str) -> Callable[[fx.Proxy, Any], Any]:
    def call(self: fx.Proxy, other: Any) -> Any:
        target = getattr(operator, name)
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return call


for _name in _IN_PLACE:
    setattr(_StandIn, f"__{_name}__", _in_place(_name))


class _ShallowTracer(fx.Tracer):
    proxy_buffer_attributes = True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _StandIn(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _check_signature(plain: type[nn.Module]) -> None:
    forward: Any = plain.forward
    if not inspect.isfunction(forward):
        raise Untraceable("its forward is not a Python function")
    if hasattr(forward, "__wrapped__"):
        raise Untraceable("its forward is decorated")
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    if len(parameters) != 1 or parameters[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise Untraceable(f"its forward takes {len(parameters)} arguments, not one tensor")


@contextmanager
def _recorded_calls(module: nn.Module) -> Iterator[dict[CodeType, str | None]]:
    """The code of every Python function outside torch that runs in the context, with the name by which it knows
    `module`, if it is a method."""
    calls: dict[CodeType, str | None] = {}

    def listen(frame: FrameType, event: str, _: Any) -> None:
        code, caller = frame.f_code, frame.f_back
        if event != "call" or code in calls or code.co_filename.startswith(_ELSEWHERE):
            return
        by_torch = caller is not None and caller.f_code.co_filename.startswith(_ELSEWHERE)
        if by_torch and (code.co_filename == "<string>" or _is_importing(frame)):
            return  # a named tuple is made, or torch.fx loads a part of itself
        first = code.co_varnames[0] if code.co_argcount else None
        is_method = first is not None and frame.f_locals.get(first) is module
        calls[code] = first if is_method else None

    previous, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # it would run finalisers of anything
    sys.setprofile(listen)
    try:
        yield calls
    finally:
        sys.setprofile(previous)
        if collects:
            gc.enable()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


_ELSEWHERE = (_TORCH, _STANDARD_LIBRARY, _PACKAGE, "<frozen")


class _Reader(ast.NodeVisitor):
    """Reads a function's source for what a trace cannot follow; `owner` is the name that stands for the module."""

    def __init__(self, module: nn.Module, owner: str | None) -> None:
        self._module = module
        self._owner = owner
        self._attributes: set[str] = set()

    def read(self, code: CodeType) -> set[str]:
        """The module's attributes that the function names. Raises Untraceable."""
        if code.co_name.startswith("<") and code.co_name != "<lambda>":
            return set()  # a comprehension is part of the function around it
        tree = _source_of(code)
        if tree is None:
            raise Untraceable(f"the source of {code.co_name} is not at hand")
        self.visit(tree)
        return self._attributes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if _last_name(called) not in _HARMLESS_DECORATORS:
                raise Untraceable(f"its {node.name} is decorated")
        for statement in node.body:  # not the annotations
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        if node.value is not None:
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        if any(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            if not all(self._is_fixed(operand) for operand in (node.left, *node.comparators)):
                raise Untraceable(f"its forward asks `{ast.unparse(node)}`")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "print":
            raise Untraceable("its forward prints")
        asks = isinstance(node.func, ast.Name) and node.func.id in _QUESTIONS
        named = _attribute_asked_for(node)
        if named is not None and self._is_owner(node.args[0]):
            self._attributes.add(named)
        elif asks and not (node.args and self._is_fixed(node.args[0])):
            raise Untraceable(f"its forward asks `{ast.unparse(node)}`")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in _SWITCHES:
            raise Untraceable(f"its forward depends on {node.attr}")
        if self._is_own(node.value):
            child = getattr(self._module, node.value.attr, None)  # type: ignore[attr-defined]
            if not isinstance(child, (Tensor, nn.ModuleList, nn.ModuleDict)):
                raise Untraceable(f"its forward reads `{ast.unparse(node)}`")
        if not isinstance(node.ctx, ast.Load):
            raise Untraceable(f"its forward sets `{ast.unparse(node)}`")
        if self._is_own(node):
            self._attributes.add(node.attr)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load) and self._is_own(node.value):
            raise Untraceable(f"its forward sets `{ast.unparse(node)}`")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id in _SWITCHES:
            raise Untraceable(f"its forward depends on {node.id}")

    def _refuse(self, node: ast.AST) -> None:
        raise Untraceable(f"its forward has a `{type(node).__name__.lower()}` statement")

    visit_Try = visit_With = visit_Global = visit_Nonlocal = _refuse

    def _is_own(self, node: ast.AST) -> bool:
        """Whether it is an attribute of the module itself."""
        return isinstance(node, ast.Attribute) and self._is_owner(node.value)

    def _is_owner(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Name) and node.id == self._owner

    def _is_fixed(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Constant) or self._is_own(node)


@lru_cache(maxsize=1024)
def _source_of(code: CodeType) -> ast.Module | None:
    """The parsed source; None where there is none."""
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):
        return None


def _attribute_asked_for(call: ast.Call) -> str | None:
    """`name` of getattr(anything, "name", ...) and hasattr(anything, "name")."""
    if not isinstance(call.func, ast.Name) or call.func.id not in ("getattr", "hasattr"):
        return None
    name = call.args[1] if len(call.args) > 1 else None
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else None


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
