"""The operations that a piece of torch code dispatches, and the bytes of their operands.

What an operation must move, had each of its kernels an ideal cache: every operand is read once by each kernel that
needs it, every result written once. Views and other operations on metadata move nothing. An operation is more than
one kernel, by its arithmetic, in three cases:
- batch norm in training reads its input twice, for the statistics and to apply them;
- its backward reads gradient and input twice, for the two sums and to apply them;
- a convolution's backward reads the output's gradient for the input's gradient and again for the weight's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda.trace.operands import arguments, operands, storage, tensors

FORWARD, BACKWARD = "forward", "backward"


def _batch_norm(arguments: Mapping[str, Any]) -> dict[str, int]:
    return {"input": 2} if arguments.get("training", True) else {}


def _batch_norm_backward(arguments: Mapping[str, Any]) -> dict[str, int]:
    return dict.fromkeys(("input", "grad_out"), 2) if arguments.get("train", True) else {}


def _convolution_backward(arguments: Mapping[str, Any]) -> dict[str, int]:
    dgrad, wgrad, _ = map(bool, arguments["output_mask"])
    return {"grad_output": dgrad + wgrad, "weight": int(dgrad), "input": int(wgrad)}


# How often an operation reads an argument, where that is not once.
_READS: dict[str, Callable[[Mapping[str, Any]], dict[str, int]]] = {
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit": _batch_norm,
    "_batch_norm_with_update": _batch_norm,
    "cudnn_batch_norm": _batch_norm,
    "native_batch_norm_backward": _batch_norm_backward,
    "batch_norm_backward": _batch_norm_backward,
    "convolution_backward": _convolution_backward,
    "max_pool2d_with_indices_backward": lambda arguments: {"self": 0},  # only its shape
}


@dataclass(frozen=True)
class Operation:
    """One call. Bytes are those of its operands; `launches` are the emulator's records of it, where it runs there."""

    name: str  # "aten::convolution"
    phase: str  # FORWARD or BACKWARD
    layer: str  # "layer1.0", "" before the first
    read: int
    written: int
    launches: list[dict[str, Any]] = field(default_factory=list)

    @property
    def operand_bytes(self) -> int:
        return self.read + self.written


class Recorder(TorchDispatchMode):
    """Records the operations dispatched inside.

    Args:
        module: whose parameters tell the layer: an operation belongs to the last layer of which one had a parameter.
        launches: called around each operation of this package, returns (and forgets) the launches since.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        launches: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._phase, self._layer = FORWARD, ""
        self._launches = launches
        self._layers = _layers_of_parameters(module) if module else {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._phase == FORWARD:
            for tensor in tensors((args, tuple(kwargs.values()))):
                self._layer = self._layers.get(storage(tensor), self._layer)
        ours = func.namespace == "resnet_cuda"
        if ours:
            self._launches()
        out = func(*args, **kwargs)
        launches = self._launches() if ours else []
        read, written = operand_bytes(func, args, kwargs, out)
        if read or written or launches:
            name = func._schema.name
            self.operations.append(
                Operation(name, self._phase, self._layer, read, written, launches)
            )
        return out

    @contextmanager
    def backward_of(self, output: Tensor) -> Iterator[None]:
        """Around output.backward(): operations belong to the layers of the forward operations they come from."""

        def enter(layer: str) -> Callable[[object], None]:
            def hook(_: object) -> None:
                self._layer = layer

            return hook

        assert output.grad_fn is not None
        nodes = node_layers(output.grad_fn, self._layers)
        handles = [node.register_prehook(enter(layer)) for node, layer in nodes.items()]
        self._phase = BACKWARD
        try:
            yield
        finally:
            self._phase = FORWARD
            for handle in handles:
                handle.remove()


def _layers_of_parameters(module: nn.Module) -> dict[int, str]:
    """{storage: layer}. A batch norm that is in no block belongs to the convolution before it, as in the fused module:
    it would be strange to compare a convolution with one that has the batch norm in it."""
    found: dict[int, str] = {}
    before = ""
    for name, parameter in module.named_parameters():
        layer = layer_name(name)
        owner = module.get_submodule(name.rpartition(".")[0])
        if before and layer.isidentifier() and hasattr(owner, "running_mean"):
            layer = before
        found[storage(parameter)] = before = layer
    return found


def layer_name(parameter: str) -> str:
    """ "layer1.0" of "layer1.0.downsample.1.weight", "fc" of "fc.weight"."""
    parts = parameter.split(".")
    for i, part in enumerate(parts):
        if part.isdecimal():
            return ".".join(parts[: i + 1])
    return parts[0]


def node_layers(root: Any, layers: Mapping[int, str]) -> dict[Any, str]:
    """{node of the autograd graph: layer}: its parameters', or that of what made its first operand."""
    found: dict[Any, str] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        sources = [source for source, _ in node.next_functions if source is not None]
        if missing := [s for s in sources if s not in found]:
            stack += missing
            continue
        stack.pop()
        variable = getattr(node, "variable", None)  # of a parameter's AccumulateGrad
        own = "" if variable is None else layers.get(storage(variable), "")
        of_parameters = [found[s] for s in sources if hasattr(s, "variable") and found[s]]
        found[node] = own or next(iter([*of_parameters, *(found[s] for s in sources)]), "")
    return found


def operand_bytes(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any
) -> tuple[int, int]:
    """(read, written) of one call of an operator; (0, 0) where it touches metadata alone."""
    found = operands(func, args, kwargs, out)
    name = func._schema.name.partition("::")[2]
    times = _READS[name](arguments(func, args, kwargs)) if name in _READS else {}
    read = sum(o.size * times.get(o.argument, 1) for o in found if not o.written)
    return read, sum(o.size for o in found if o.written)
