"""The runs of convolution, batch norm, addition and ReLU in a traced forward, and the graph with each as one call."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import fx, nn

from resnet_cuda.nn._forward_trace import is_quiet
from resnet_cuda.nn._units import batch_norm_blocker, conv_blocker, touched

_RELU_FUNCTIONS = {F.relu, F.relu_, torch.relu, torch.relu_}
_RELU_METHODS = {"relu", "relu_"}
_ADDITIONS = {operator.add, torch.add, "add"}
_IN_PLACE_ADDITIONS = {operator.iadd, "add_"}


class ForwardRun(NamedTuple):
    """relu?(norm(conv(x)) + something) in a graph. nodes: all of it, in order, with identities on the way."""

    conv: fx.Node
    norm: fx.Node
    addition: fx.Node | None
    relu: fx.Node | None
    nodes: tuple[fx.Node, ...]

    @property
    def residual(self) -> fx.Node | None:
        """What is added; another run's result, once that is merged."""
        if self.addition is None:
            return None
        left, right = self.addition.args
        other = right if left in self.nodes else left
        return other if isinstance(other, fx.Node) else None

    @property
    def adds_in_place(self) -> bool:
        return self.addition is not None and self.addition.target in _IN_PLACE_ADDITIONS

    def __str__(self) -> str:
        parts = [str(self.conv.target), str(self.norm.target)]
        parts += ["add"] if self.addition is not None else []
        parts += ["relu"] if self.relu is not None else []
        return " + ".join(parts)


def find_runs(module: nn.Module, graph: fx.Graph) -> list[ForwardRun]:
    """All runs that may be computed as one. A convolution or batch norm that the forward calls twice is in none."""
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    position = {node: i for i, node in enumerate(graph.nodes)}
    runs: list[ForwardRun] = []
    for node in graph.nodes:
        if _is_once(node, calls) and conv_blocker(_called(module, node)) is None:
            taken = {other for run in runs for other in run.nodes}
            run = _run_from(module, node, calls, position, taken)
            if run is not None:
                runs.append(run)
    return runs


def merge_runs(graph: fx.Graph, runs: list[ForwardRun], owner: str, method: str) -> None:
    """Replaces each run by `module.owner.method(conv, norm, relu, x, residual, in place)`, the children by name."""
    first = next(node for node in graph.nodes if node.op != "placeholder")
    with graph.inserting_before(first):
        this = graph.create_node("get_attr", owner)
    for run in runs:
        # Without a residual the batch norm moves up to its convolution, past what touches neither.
        with graph.inserting_before(run.addition or run.conv):
            names, read = (str(run.conv.target), str(run.norm.target)), run.conv.args[0]
            options = (run.relu is not None, read, run.residual, run.adds_in_place)
            merged = graph.call_method(method, (this, *names, *options))
        run.nodes[-1].replace_all_uses_with(merged)
        for node in reversed(run.nodes):
            graph.erase_node(node)


def merged_children(runs: list[ForwardRun]) -> Iterator[str]:
    """The names of the convolutions and batch norms in `runs`."""
    for run in runs:
        yield str(run.conv.target)
        yield str(run.norm.target)


def _run_from(
    module: nn.Module,
    conv: fx.Node,
    calls: Counter[Any],
    position: dict[fx.Node, int],
    taken: set[fx.Node],
) -> ForwardRun | None:
    norm = _only_user(conv)
    if norm is None or not _is_once(norm, calls):
        return None
    if batch_norm_blocker(_called(module, norm)) is not None:
        return None
    nodes, addition = [conv, norm], None
    user = _behind(module, nodes)
    if user is not None and user not in taken and _may_join(user, nodes, position):
        addition = user
        nodes.append(user)
        user = _behind(module, nodes)
    relu = user if user is not None and _is_relu(module, user) else None
    nodes += [relu] if relu is not None else []
    return ForwardRun(conv, norm, addition, relu, tuple(nodes))


def _behind(module: nn.Module, nodes: list[fx.Node]) -> fx.Node | None:
    """The only user of the last node, which becomes the last identity child behind it, if there are any."""
    user = _only_user(nodes[-1])
    while user is not None and _is_identity(module, user):
        nodes.append(user)
        user = _only_user(user)
    return user


def _may_join(addition: fx.Node, nodes: list[fx.Node], position: dict[fx.Node, int]) -> bool:
    """Whether `addition` adds something to the last of `nodes`, and the convolution may wait for that."""
    if addition.target not in _ADDITIONS | _IN_PLACE_ADDITIONS:
        return False
    if len(addition.args) != 2 or addition.kwargs:
        return False
    left, right = addition.args
    if addition.target in _IN_PLACE_ADDITIONS and left is not nodes[-1]:
        return False  # changes a tensor that others may hold
    other = right if left is nodes[-1] else left
    if not isinstance(other, fx.Node) or other in nodes:
        return False
    # Nobody may change what the convolution reads before it does.
    start, end = position[nodes[0]], position[addition]
    (read,) = nodes[0].all_input_nodes
    return not any(start < position[user] < end for user in read.users)


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
    """Whether it does nothing, at least in this mode."""
    if node.op != "call_module":
        return False
    child = _called(module, node)
    return touched(child, type(child) if is_quiet(child) else nn.Identity) is None


def _called(module: nn.Module, node: fx.Node) -> nn.Module:
    return module.get_submodule(str(node.target))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
