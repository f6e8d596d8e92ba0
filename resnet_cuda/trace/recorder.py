"""Notes what the executor of branches dispatches when a fused call is made on tensors without values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_cuda import _backend, _raw
from resnet_cuda.nn._recording import BranchCall
from resnet_cuda.nn._recording import listening as hearing_calls
from resnet_cuda.ops import ConvUnit, NormUnit
from resnet_cuda.ops._branch import BranchSpec, BranchTensors
from resnet_cuda.ops._branch_passes import closed_form_obstacle
from resnet_cuda.ops._kernels import KernelBackend
from resnet_cuda.ops._serving import listening
from resnet_cuda.trace.kernel_plan import Convolution
from resnet_cuda.trace.operands import Operand, arguments, operands, storage
from resnet_cuda.trace.passes import AGAIN, BACKWARD, FORWARD, TORCH, Bytes, Pass, Trace
from resnet_cuda.trace.products import products_of

_Unit = TypeVar("_Unit", ConvUnit, NormUnit)


def trace(
    call: BranchCall, *, input_gradient: bool = True, dtype: torch.dtype | None = None
) -> Trace:
    """A training step of the call: its output, and the gradients of all its parameters.

    Of the call's tensors only shapes and dtypes count; all are taken to be in channels_last memory.

    Args:
        call: as fused modules announce it.
        input_gradient: whether x (and the residual) wants a gradient.
        dtype: in place of the tensors' own: what autocast makes of them.

    Raises:
        RuntimeError: the compiled extension is missing, whose schemas the passes go by.
    """
    _raw.require()
    with FakeTensorMode(), torch.enable_grad(), torch.autocast("cpu", enabled=False):
        call = _without_values(call, dtype, input_gradient)
        projection = [call.shortcut] if isinstance(call.shortcut, ConvUnit) else []
        units = [*call.units, *projection]
        recorder = _Recorder(call, units)
        with recorder.listening():
            z = call.run()
            recorder.phase = BACKWARD
            dz = recorder.activation(torch.empty_like(z))
            entry = () if call.entry is None else call.entry.bn()
            vectors = (t for u in units for t in (u.weight, *u.bn()))
            leaves = [call.x, call.residual, *entry, *vectors]
            wanted = [t for t in leaves if t is not None and t.requires_grad]
            torch.autograd.grad(z, wanted, dz, allow_unused=True)
    return Trace(tuple(recorder.passes), tuple(recorder.obstacles))


def calls_of(module: nn.Module, x: Tensor) -> list[BranchCall]:
    """The calls that a fused module announces for x, both on tensors without values."""
    calls: list[BranchCall] = []
    with on_kernels(), torch.no_grad(), hearing_calls(calls.append):
        module(x)
    return calls


@contextmanager
def on_kernels(kernels: KernelBackend | None = None) -> Iterator[None]:
    """Has our kernels serve tensors without values."""
    previous = _backend.replace_instance("emulated", kernels or KernelBackend())
    try:
        with _backend.use_backend("emulated"):
            yield
    finally:
        _backend.replace_instance("emulated", previous)


def _without_values(
    call: BranchCall, dtype: torch.dtype | None, input_gradient: bool
) -> BranchCall:
    """The call on tensors of the same shapes, all parameters of which want gradients."""

    def empty(t: Tensor | None, requires_grad: bool = True) -> Any:
        if t is None:
            return None
        layout = torch.channels_last if t.dim() == 4 else torch.contiguous_format
        shape, kind = tuple(t.shape), dtype or t.dtype
        return torch.empty(shape, dtype=kind, memory_format=layout, requires_grad=requires_grad)

    def empty_norm(unit: _Unit) -> _Unit:
        return replace(
            unit,
            gamma=empty(unit.gamma),
            beta=empty(unit.beta),
            running_mean=empty(unit.running_mean, False),
            running_var=empty(unit.running_var, False),
            process_group=None,  # of all that travels there is nothing here
        )

    def empty_unit(unit: ConvUnit) -> ConvUnit:
        return replace(empty_norm(unit), weight=empty(unit.weight), folded=None)

    shortcut, residual, entry = call.shortcut, call.residual, call.entry
    return call._replace(
        x=empty(call.x, input_gradient),
        units=[empty_unit(unit) for unit in call.units],
        shortcut=empty_unit(shortcut) if isinstance(shortcut, ConvUnit) else shortcut,
        entry=None if entry is None else empty_norm(entry),
        residual=empty(
            residual, input_gradient or (residual is not None and residual.requires_grad)
        ),
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
        with on_kernels(_TracedKernels(self)), listening(self._serve), self:
            yield

    def _serve(self, weight: Tensor) -> None:
        self._unit = self._owners[storage(weight)]

    def decided(self, branch: BranchSpec, tensors: BranchTensors) -> None:
        """Keeps what the executor decides about closed form."""
        for i, t in enumerate(tensors.convolutions):
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
        for _, tensor, written, _ in found:
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
            products = products_of(name, named)
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
        for argument, tensor, _, size in found:
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
        self, branch: BranchSpec, tensors: BranchTensors
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        recorder = self._recorder
        recorder.decided(branch, tensors)
        phase, recorder.phase = recorder.phase, AGAIN if recorder.phase == BACKWARD else FORWARD
        try:
            return super().branch_forward(branch, tensors)
        finally:
            recorder.phase = phase
