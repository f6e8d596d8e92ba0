"""The passes of a fused call in training, with the bytes that each must move.

The executor of branches itself is run, forward and backward, on tensors without values, and every
operation that it dispatches is noted. So there is no second description of its passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import _backend, _raw
from resnet_cuda._operands import Operand, arguments, operands, storage, stored_bytes
from resnet_cuda.nn._recording import BranchCall
from resnet_cuda.ops import ConvUnit
from resnet_cuda.ops._branch import BranchSpec, ConvTensors
from resnet_cuda.ops._branch_passes import closed_form_obstacle
from resnet_cuda.ops._kernels import KernelBackend
from resnet_cuda.ops._serving import listening

FORWARD, BACKWARD, AGAIN = "forward", "backward", "forward again"
TORCH = "torch"  # the name of what torch does with vectors and matrices between two kernels

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Bytes:
    """activations: their gradients and the bits of their ReLUs, too. matrices: of a weight's size or
    like it, their gradients, Gram matrices. small: per-channel vectors and partial sums."""

    activations: int = 0
    matrices: int = 0
    small: int = 0

    @property
    def total(self) -> int:
        return self.activations + self.matrices + self.small

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            self.activations + other.activations,
            self.matrices + other.matrices,
            self.small + other.small,
        )


class Convolution(NamedTuple):
    """A product in a pass, as a convolution of x [N, C, H, W] with weight [K, C / groups, R, S].

    kind: "fprop", "dgrad" or "wgrad"; or, of a 1x1, "product" (wgrad's sum over pixels, kept in
    float64) or "gram" (x by itself).
    """

    kind: str
    x: Shape
    weight: Shape
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def output(self) -> Shape:
        return _raw.conv_output_shape(self.x, self.weight, *self[3:6])

    @property
    def flops(self) -> int:
        """Two per multiply-add; of a symmetric matrix one half."""
        n, k, p, q = self.output
        depth = self.weight[1] * self.weight[2] * self.weight[3]
        if self.kind == "gram":
            return n * p * q * depth * (depth + 1)
        return 2 * n * p * q * k * depth

    @property
    def elements_read(self) -> int:
        """Of x: a 1x1 of stride 2 touches every fourth pixel."""
        n, c, h, w = self.x
        _, _, p, q = self.output
        return n * c * min(h, p * self.weight[2]) * min(w, q * self.weight[3])


@dataclass(frozen=True)
class Pass:
    """One launch of a kernel of ours (and what it needs to add up its parts); or operations of torch
    in a row on vectors and matrices (`TORCH`); or one of torch on activations ("aten::...").

    unit: whose pass it is, an index into the call's units; the projection is behind them.
    """

    phase: str
    name: str
    unit: int
    dtype: torch.dtype
    reads: Bytes
    writes: Bytes
    convolutions: tuple[Convolution, ...] = ()
    operations: int = 1

    @property
    def bytes(self) -> Bytes:
        """Every tensor that is read once, and every tensor that is written."""
        return self.reads + self.writes

    @property
    def flops(self) -> int:
        return sum(one.flops for one in self.convolutions)

    @property
    def is_kernel(self) -> bool:
        return self.name.startswith(("conv_", "bottleneck_", "bn_", "add_relu_"))


@dataclass(frozen=True)
class Trace:
    """In order. obstacles: of each convolution, why its output is stored; None: its batch norm is had
    in closed form."""

    passes: tuple[Pass, ...]
    obstacles: tuple[str | None, ...]


def trace(
    call: BranchCall,
    *,
    input_gradient: bool = True,
    batch: int | None = None,
    dtype: torch.dtype | None = None,
) -> Trace:
    """A training step of the call: its output, and the gradients of all its parameters.

    Of the call's tensors only shapes and dtypes count; all are taken to be in channels_last memory.

    Args:
        call: as fused modules announce it.
        input_gradient: whether x (and the residual) wants a gradient.
        batch, dtype: in place of the call's own.

    Raises:
        RuntimeError: the compiled extension is missing, whose schemas the passes go by.
    """
    _raw.require()
    with FakeTensorMode(), torch.enable_grad():
        empty = _Empty(batch, dtype)
        call = call._replace(
            x=empty.activation(call.x, input_gradient),
            units=[empty.unit(unit) for unit in call.units],
            shortcut=empty.unit(call.shortcut)
            if isinstance(call.shortcut, ConvUnit)
            else call.shortcut,
            residual=call.residual
            if call.residual is None
            else empty.activation(call.residual, input_gradient or call.residual.requires_grad),
        )
        units = [*call.units, *([call.shortcut] if isinstance(call.shortcut, ConvUnit) else [])]
        recorder = _Recorder(call, units)
        with recorder.listening():
            z = call.run()
            recorder.phase = BACKWARD
            dz = recorder.activation(torch.empty_like(z))
            leaves = [call.x, call.residual, *(t for u in units for t in (u.weight, *u.bn()))]
            wanted = [t for t in leaves if t is not None and t.requires_grad]
            torch.autograd.grad(z, wanted, dz, allow_unused=True)
    return Trace(tuple(recorder.passes), tuple(recorder.obstacles))


class _Empty(NamedTuple):
    """Makes tensors without values like others."""

    batch: int | None
    dtype: torch.dtype | None

    def like(self, t: Tensor, shape: Sequence[int], requires_grad: bool) -> Tensor:
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        dtype = self.dtype or t.dtype
        return torch.empty(
            tuple(shape), dtype=dtype, memory_format=layout, requires_grad=requires_grad
        )

    def activation(self, x: Tensor, requires_grad: bool) -> Tensor:
        return self.like(x, (self.batch or x.shape[0], *x.shape[1:]), requires_grad)

    def unit(self, unit: ConvUnit) -> ConvUnit:
        def parameter(t: Tensor | None) -> Tensor | None:
            return None if t is None else self.like(t, t.shape, True)

        def statistic(t: Tensor | None) -> Tensor | None:
            return None if t is None else self.like(t, t.shape, False)

        return replace(
            unit,
            weight=self.like(unit.weight, unit.weight.shape, True),
            gamma=parameter(unit.gamma),
            beta=parameter(unit.beta),
            running_mean=statistic(unit.running_mean),
            running_var=statistic(unit.running_var),
            folded=None,
        )


_ACTIVATION, _MATRIX, _SMALL = range(3)  # kinds of tensors, as `Bytes` has them


class _Recorder(TorchDispatchMode):
    """Notes the passes dispatched inside, whose they are and what is in their tensors."""

    def __init__(self, call: BranchCall, units: Sequence[ConvUnit]) -> None:
        super().__init__()
        self.phase = FORWARD
        self.passes: list[Pass] = []
        self.obstacles: list[str | None] = [None] * len(units)
        self._unit = 0
        self._kinds: dict[int, int] = {}  # by storage
        self._owners: dict[int, int] = {}  # of filters: the unit
        self._alive: list[Any] = []  # so that no storage's number is used twice
        for tensor in (call.x, call.residual):
            if tensor is not None:
                self.activation(tensor)
        for i, unit in enumerate(units):
            self._kinds[storage(unit.weight)] = _MATRIX
            self._owners[storage(unit.weight)] = i

    def activation(self, x: Tensor) -> Tensor:
        """Says that it is one."""
        self._alive.append(x)
        self._kinds[storage(x)] = _ACTIVATION
        return x

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Fused calls inside are traced."""
        previous = _backend.replace_instance("emulated", _TracedKernels(self))
        try:
            with _backend.use_backend("emulated"), listening(self._serve), self:
                yield
        finally:
            _backend.replace_instance("emulated", previous)

    def _serve(self, weight: Tensor) -> None:
        self._unit = self._owners[storage(weight)]

    def decided(self, branch: BranchSpec, tensors: Sequence[ConvTensors]) -> None:
        """Keeps what the executor decides about closed form."""
        for i, t in enumerate(tensors):
            obstacle = closed_form_obstacle(branch, tensors, i)
            self.obstacles[self._owners[storage(t.weight)]] = obstacle

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        found = operands(func, args, kwargs, out)
        self._alive.append((args, kwargs, out))
        if found:
            self._learn(func, found)
            self._note(func, found, arguments(func, args, kwargs))
        return out

    def _learn(self, func: Any, found: Sequence[Operand]) -> None:
        """What the results are, from what they were made of."""
        sources = [operand.tensor for operand in found if not operand.written]
        kind = min((self._kind(t) for t in sources), default=_SMALL)
        for _, tensor, written in found:
            if written and storage(tensor) not in self._kinds:
                self._kinds[storage(tensor)] = _kind_of_result(func, tensor, kind)
        if len(sources) == 1 and storage(sources[0]) in self._owners:  # filters in another layout
            owner = self._owners[storage(sources[0])]
            self._owners.update({storage(o.tensor): owner for o in found if o.written})

    def _kind(self, tensor: Tensor) -> int:
        return self._kinds.get(storage(tensor), _SMALL)

    def _note(self, func: Any, found: Sequence[Operand], named: Mapping[str, Any]) -> None:
        name = func._schema.name
        products: dict[str, Convolution] = {}
        if func.namespace == "resnet_cuda":
            name = name.partition("::_")[2]
            products = _PRODUCTS.get(name, lambda a: {})(named)
        elif not any(self._kind(operand.tensor) == _ACTIVATION for operand in found):
            name = TORCH
        one = Pass(
            self.phase,
            name,
            self._unit,
            found[0].tensor.dtype,
            self._sum((o for o in found if not o.written), products),
            self._sum((o for o in found if o.written), {}),
            tuple(products.values()),
        )
        before = self.passes[-1] if self.passes else None
        if name == TORCH and before and _place(before) == _place(one):
            one = replace(
                before,
                reads=before.reads + one.reads,
                writes=before.writes + one.writes,
                operations=before.operations + 1,
            )
            self.passes.pop()
        self.passes.append(one)

    def _sum(self, found: Iterable[Operand], products: Mapping[str, Convolution]) -> Bytes:
        """Each tensor once."""
        sizes: dict[int, tuple[int, int]] = {}  # by storage: kind, bytes
        for argument, tensor, _ in found:
            size = stored_bytes(tensor)
            if argument in products and products[argument].kind != "dgrad":
                size = products[argument].elements_read * tensor.itemsize
            _, before = sizes.get(storage(tensor), (0, 0))
            sizes[storage(tensor)] = self._kind(tensor), max(size, before)
        return Bytes(*(sum(n for k, n in sizes.values() if k == kind) for kind in range(3)))


def _place(one: Pass) -> tuple[str, str, int]:
    return one.phase, one.name, one.unit


def _kind_of_result(func: Any, tensor: Tensor, made_of: int) -> int:
    """made_of: the first kind that is among its sources."""
    is_gradient_of_filters = func is torch.ops.resnet_cuda._conv_wgrad.default
    if made_of == _ACTIVATION and not is_gradient_of_filters:
        if tensor.dim() == 4 or tensor.dtype == torch.uint8:
            return _ACTIVATION
    return _MATRIX if made_of != _SMALL and tensor.dim() in (2, 4) else _SMALL


class _TracedKernels(KernelBackend):
    """The kernels' backend, with somebody who watches."""

    name = "emulated"

    def __init__(self, recorder: _Recorder) -> None:
        self._recorder = recorder

    def branch_forward(
        self, branch: BranchSpec, x: Tensor, source: Tensor | None, tensors: Sequence[ConvTensors]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        recorder = self._recorder
        recorder.decided(branch, tensors)
        phase, recorder.phase = recorder.phase, AGAIN if recorder.phase == BACKWARD else FORWARD
        try:
            return super().branch_forward(branch, x, source, tensors)
        finally:
            recorder.phase = phase


def _shape(tensor: Tensor) -> Shape:
    a, b, c, d = tensor.shape
    return a, b, c, d


def _geometry(a: Mapping[str, Any]) -> tuple[Any, ...]:
    return (*(tuple(a[name]) for name in ("stride", "padding", "dilation")), a["groups"])


def _pointwise(kind: str, x: Tensor, filters: int, stride: int = 1) -> Convolution:
    return Convolution(kind, _shape(x), (filters, x.shape[1], 1, 1), (stride, stride))


def _of_expand(a: Mapping[str, Any]) -> dict[str, Convolution]:
    filters = a["weight"].shape[0]
    found = {"x": _pointwise("fprop", a["x"], filters)}
    if a["projection_weight"] is not None:
        stride = a["projection_stride"]
        found["residual"] = _pointwise("fprop", a["residual"], filters, stride)
    return found


# The products in a pass, by the argument that holds what is multiplied.
_PRODUCTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Convolution]]] = {
    "conv_fprop": lambda a: {
        "x": Convolution("fprop", _shape(a["x"]), _shape(a["weight"]), *_geometry(a))
    },
    "conv_dgrad": lambda a: {
        "dy": Convolution("dgrad", tuple(a["input_size"]), _shape(a["weight"]), *_geometry(a))
    },
    "conv_wgrad": lambda a: {
        "x": Convolution("wgrad", _shape(a["x"]), tuple(a["weight_size"]), *_geometry(a))
    },
    "bottleneck_reduce": lambda a: {
        "x": _pointwise("fprop", a["x"], a["weight"].shape[0], a["stride"])
    },
    "bottleneck_expand": _of_expand,
    "bottleneck_gram": lambda a: {"x": _pointwise("gram", a["x"], a["x"].shape[1], a["stride"])},
    "bottleneck_expand_wgrad": lambda a: {
        "x": _pointwise("product", a["x"], a["dz"].shape[1], a["stride"])
    },
    "bottleneck_expand_dgrad": lambda a: {
        "dz": _pointwise("dgrad", a["x"], a["dz"].shape[1], a["stride"]),
        "x": _pointwise("fprop", a["x"], a["matrix"].shape[0], a["stride"]),
    },
}
