"""The runs of convolution, batch norm, addition and ReLU in a traced forward, and the graph with each as one call."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker, neutral_blocker, touched

_RELU_FUNCTIONS = {F.relu, F.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_ADD_FUNCTIONS = {operator.add, torch.add}


class ForwardRun(NamedTuple):
    """relu?(norm(conv(x)) + residual?) in a graph. nodes: all of it, in order."""

    conv: fx.Node
    norm: fx.Node
    residual: fx.Node | None
    relu: fx.Node | None
    nodes: tuple[fx.Node, ...]

    @property
    def last(self) -> fx.Node:
        return self.nodes[-1]

    def __str__(self) -> str:
        parts = [str(self.conv.target), str(self.norm.target)]
        parts += ["add"] if self.residual is not None else []
        parts += ["relu"] if self.relu is not None else []
        return " + ".join(parts)


def find_runs(module: nn.Module, graph: fx.Graph) -> list[ForwardRun]:
    """All runs that may be computed as one. A convolution or batch norm that the forward calls twice is in none."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    position = {node: i for i, node in enumerate(graph.nodes)}
    runs = []
    for node in graph.nodes:
        if _is_once(node, calls) and conv_blocker(_called(module, node)) is None:
            run = _run_from(module, node, calls, position)
            if run is not None:
                runs.append(run)
    return runs


def merge_runs(graph: fx.Graph, runs: list[ForwardRun], owner: str, method: str) -> None:
    """Replaces each run by `module.owner.method(conv, norm, relu, x, residual)`, the first two by their names."""
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        this = graph.create_node("get_attr", owner)
    for run in runs:
        # Without a residual the batch norm moves up to its convolution, past what touches neither.
        place = run.conv if run.residual is None else _addition(run)
        with graph.inserting_before(place):
            names, read = (str(run.conv.target), str(run.norm.target)), run.conv.args[0]
            arguments = (this, *names, run.relu is not None, read, run.residual)
            merged = graph.call_method(method, arguments)
        run.last.replace_all_uses_with(merged)
        for node in reversed(run.nodes):
            graph.erase_node(node)


def _addition(run: ForwardRun) -> fx.Node:
    return next(node for node in run.nodes if run.residual in node.all_input_nodes)


def _run_from(
    module: nn.Module, conv: fx.Node, calls: Counter[Any], position: dict[fx.Node, int]
) -> ForwardRun | None:
    norm = _only_user(conv)
    if norm is None or not _is_once(norm, calls):
        return None
    if batch_norm_blocker(_called(module, norm)) is not None:
        return None
    nodes = [conv, norm]
    user = _behind(module, nodes)
    if user is not None and _is_relu(module, user):
        return ForwardRun(conv, norm, None, user, (*nodes, user))
    residual = None if user is None else _residual(user, nodes, position)
    if user is not None and residual is not None:
        nodes.append(user)
        relu = _behind(module, nodes)
        if relu is not None and _is_relu(module, relu):
            return ForwardRun(conv, norm, residual, relu, (*nodes, relu))
        return ForwardRun(conv, norm, residual, None, tuple(nodes))
    return ForwardRun(conv, norm, None, None, tuple(nodes))


def _behind(module: nn.Module, nodes: list[fx.Node]) -> fx.Node | None:
    """The only user of the last node, which becomes the last identity child behind it, if there are any."""
    user = _only_user(nodes[-1])
    while user is not None and _is_identity(module, user):
        nodes.append(user)
        user = _only_user(user)
    return user


def _residual(
    addition: fx.Node, nodes: list[fx.Node], position: dict[fx.Node, int]
) -> fx.Node | None:
    """What `addition` adds to the last of `nodes`, where the convolution may wait for it."""
    if addition.op == "call_function":
        in_place = addition.target is operator.iadd
        if not in_place and addition.target not in _ADD_FUNCTIONS:
            return None
    elif addition.op == "call_method" and addition.target in ("add", "add_"):
        in_place = addition.target == "add_"
    else:
        return None
    if len(addition.args) != 2 or addition.kwargs:
        return None
    left, right = addition.args
    if in_place and left is not nodes[-1]:
        return None  # changes a tensor that others may hold
    other = right if left is nodes[-1] else left
    if not isinstance(other, fx.Node) or other in nodes:
        return None
    # Nobody may change what the convolution reads before it does.
    start, end = position[nodes[0]], position[addition]
    read = nodes[0].args[0]
    waiting = [user for user in read.users if start < position[user] < end]  # type: ignore[union-attr]
    return None if waiting else other


def _is_once(node: fx.Node, calls: Counter[Any]) -> bool:
    """Whether it calls a child, with one tensor, that nothing else in the forward calls."""
    return (
        node.op == "call_module"
        and calls[node.target] == 1
        and not node.kwargs
        and len(node.args) == 1
        and isinstance(node.args[0], fx.Node)
    )


def _is_relu(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return touched(_called(module, node), nn.ReLU) is None
    more = set(node.kwargs) - {"inplace"}
    if len(node.args) != 1 or more:
        return False
    if node.op == "call_function":
        return node.target in _RELU_FUNCTIONS
    return node.op == "call_method" and node.target in _RELU_METHODS


def _is_identity(module: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and neutral_blocker(_called(module, node)) is None


def _called(module: nn.Module, node: fx.Node) -> nn.Module:
    return module.get_submodule(str(node.target))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def merged_children(runs: list[ForwardRun]) -> Iterator[str]:
    """The names of the convolutions and batch norms in `runs`."""
    for run in runs:
        yield str(run.conv.target)
        yield str(run.norm.target)
