"""`explain`: what a module or op computes, which CUDA kernels serve it, and how fast it could be at best."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnet_cuda import _backend, _selection, ops
from resnet_cuda.fuse import FuseEntry, copied, fuse_report
from resnet_cuda.nn._recording import BranchCall, listening
from resnet_cuda.ops import ConvUnit, Identity
from resnet_cuda.ops._branch import BranchOptions
from resnet_cuda.ops._layout import is_channels_last
from resnet_cuda.ops._synchronised import alone
from resnet_cuda.ops.bottleneck import are_units_of_block
from resnet_cuda.ops.conv_bn_relu_max_pool2d import FUSED_WINDOW
from resnet_cuda.ops.max_pool2d import PoolWindow
from resnet_cuda.trace import FORWARD, Bytes, Trace, trace
from resnet_cuda.trace.gpus import H200 as H200
from resnet_cuda.trace.gpus import Gpu as Gpu
from resnet_cuda.trace.kernel_plan import Convolution, Shape, planned, planned_block


@dataclass(frozen=True)
class PassPlan:
    """One pass of one unit.

    In training it is one that the executor of branches makes: `order` is its place among those of the
    unit's call. At inference it is the fused unit's convolution. `reads` and `writes` count every
    tensor once. `floor_us` is max(flops / rate, bytes / bandwidth) on the report's GPU, in
    microseconds.
    """

    name: str
    kernel: str
    tile: tuple[int, int, int] | None
    why: str
    flops: int
    reads: Bytes
    writes: Bytes
    floor_us: float
    phase: str = FORWARD
    order: int = 0

    @property
    def bytes(self) -> int:
        """All that it moves."""
        return (self.reads + self.writes).total


@dataclass(frozen=True)
class UnitPlan:
    """One convolution with its batch norm, and what follows it in the same call.

    Shapes are torch's logical ones: input [N, C, H, W], weight [K, C / groups, R, S], output [N, K, P, Q],
    pooled where the kernel pools it. `passes` is empty where the pass of an earlier unit of the call computes this
    one, too. `batch_norm` says where its statistics come from, and why its
    output is stored or not.
    """

    name: str
    operation: str
    input: Shape
    weight: Shape
    output: Shape
    dtype: torch.dtype
    training: bool
    passes: tuple[PassPlan, ...]
    copies: tuple[str, ...]
    batch_norm: str = "running statistics, folded into the convolution's epilogue"


@dataclass
class Report:
    """What `explain` found; `str()` gives a table."""

    backend: str
    gpu: Gpu
    device: str  # the GPU that kernels are planned for: of the inputs, or the one that the emulator plays
    units: list[UnitPlan] = field(default_factory=list)
    left: list[FuseEntry] = field(default_factory=list)

    @property
    def flops(self) -> int:
        """Floating-point operations of all listed passes (2 per multiply-add)."""
        return sum(p.flops for unit in self.units for p in unit.passes)

    @property
    def bytes(self) -> int:
        """What all listed passes move, each tensor of a pass once."""
        return sum(p.bytes for unit in self.units for p in unit.passes)

    @property
    def floor_us(self) -> float:
        """The sum of the passes' floors in microseconds: each pass as its own perfect kernel."""
        return sum(p.floor_us for unit in self.units for p in unit.passes)

    def __str__(self) -> str:
        lines = [
            f"served here by the {self.backend!r} backend; kernels are those that the CUDA build plans",
            f"planned for {self.device}",
            f"floors: {self.gpu.name}, {self.gpu.bandwidth / 1e12:.1f} TB/s",
            "",
            *_table(self._rows()),
            "",
            f"{len(self.units)} units, {self.flops / 1e9:.2f} GFLOP, {self.bytes / 1e6:.1f} MB, "
            f"floor {self.floor_us:.1f} us",
        ]
        reasons = {p.kernel: p.why for unit in self.units for p in unit.passes}
        lines += ["", *(f"{kernel}: {why}" for kernel, why in reasons.items())]
        norms: dict[str, list[str]] = {}
        for unit in self.units:
            norms.setdefault(unit.batch_norm, []).append(unit.name)
        lines += ["", *(f"batch norm of {', '.join(n)}: {how}" for how, n in norms.items())]
        copies = [f"{unit.name}: {text}" for unit in self.units for text in unit.copies]
        lines += ["", "copies for the memory format:", *(copies or ["none"])]
        if self.left:
            lines += ["", "outside the fused calls:"]
            lines += [f"{e.path or '(the model)'}: {e.kind} {e.note}" for e in self.left]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            (
                *("unit", "operation", "#", "pass", "input", "weight", "kernel", "tile"),
                *("GFLOP", "read MB", "written MB", "us"),
            )
        ]
        for unit in self.units:
            if not unit.passes:
                sizes = _dims(unit.input), _dims(unit.weight)
                rows.append((unit.name, unit.operation, "", "with those above", *sizes, *6 * ("",)))
            for i, p in enumerate(unit.passes):
                first = i == 0
                rows.append(
                    (
                        unit.name if first else "",
                        unit.operation if first else "",
                        str(p.order),
                        p.name if p.phase == FORWARD else f"{p.phase}: {p.name}",
                        _dims(unit.input) if first else "",
                        _dims(unit.weight) if first else "",
                        p.kernel,
                        _dims(p.tile) if p.tile else "-",
                        f"{p.flops / 1e9:.3f}",
                        f"{p.reads.total / 1e6:.2f}",
                        f"{p.writes.total / 1e6:.2f}",
                        f"{p.floor_us:.2f}",
                    )
                )
        return rows


def explain(
    module_or_op: nn.Module | Callable[..., Tensor],
    *inputs: Any,
    training: bool | None = None,
    gpu: Gpu = H200,
    **options: Any,
) -> Report:
    """Per convolution unit: shapes, planned kernel and tile and why, FLOPs, bytes, floor on a GPU, and copies.

    In training the passes are those that the executor of branches makes on our kernels (`trace`), forward and backward.
    A module is run once on a deep copy without gradients, so its statistics stay; no other rank is asked for anything.
    An op is not run: its arguments say everything.

    Args:
        module_or_op: any module (fused parts are explained, the rest is listed), or `ops.conv_bn_relu`,
            `ops.conv_bn_relu_max_pool2d`, `ops.bottleneck_reduce`, `ops.bottleneck_expand`, `ops.bottleneck_block`,
            `ops.conv_unit`, `ops.residual_branch`.
        inputs: what it is called with.
        training: True adds the backward passes and uses batch statistics; None keeps the module's mode, or
            the op's `training` argument.
        gpu: whose floors are told. Kernels are planned for the GPU of the inputs.
        options: keyword arguments of the call.

    Raises:
        TypeError: module_or_op is neither a module nor one of these ops.
    """
    if isinstance(module_or_op, nn.Module):
        return _explain_module(module_or_op, inputs, options, training, gpu)
    if module_or_op not in _OPS:
        accepted = ", ".join(f"ops.{op.__name__}" for op in _OPS)
        raise TypeError(
            f"module_or_op is {module_or_op!r}; expected an nn.Module or one of {accepted}"
        )
    return _explain_op(module_or_op, inputs, options, training, gpu)


def _explain_module(
    module: nn.Module,
    inputs: Sequence[Any],
    options: dict[str, Any],
    training: bool | None,
    gpu: Gpu,
) -> Report:
    module = copied(module)
    if training is not None:
        module.train(training)
    names = {id(p): name.removesuffix(".weight") for name, p in module.named_parameters()}
    calls: list[BranchCall] = []
    with torch.no_grad(), listening(calls.append), alone():
        module(*inputs, **options)
    report = _report(next((c.x for c in calls), None), gpu)
    report.left = fuse_report(module).left
    for call in calls:
        # The images need no gradient, so the first convolution has no dgrad.
        leaf = any(call.x is given for given in inputs) and not call.x.requires_grad
        report.units += _explain_call(call, names, report.gpu, input_gradient=not leaf)
    return report


def _explain_op(
    op: Callable[..., Tensor],
    inputs: Sequence[Any],
    options: dict[str, Any],
    training: bool | None,
    gpu: Gpu,
) -> Report:
    bound = inspect.signature(op).bind(*inputs, **options)
    bound.apply_defaults()
    call = _OPS[op](dict(bound.arguments))
    units = [*call.units, *([call.shortcut] if isinstance(call.shortcut, ConvUnit) else [])]
    names: dict[int, str] = {}
    for i, unit in enumerate(units):
        names[id(unit.weight)] = op.__name__ if len(units) == 1 else f"units[{i}]"
        if training is not None and unit.batch_norm:
            unit.training = training
    if training is not None and call.entry is not None:
        call.entry.training = training
    if isinstance(call.shortcut, ConvUnit):
        names[id(call.shortcut.weight)] = "projection"
    report = _report(call.x, gpu)
    report.units = _explain_call(call, names, report.gpu, call.x.requires_grad)
    return report


def _report(x: Tensor | None, gpu: Gpu) -> Report:
    backend = _backend.backend() if x is None else _backend.resolve(x).name
    device = torch.device("cpu") if x is None else x.device
    return Report(backend, gpu, device_numbers(device))


def device_numbers(device: torch.device) -> str:
    """What of a GPU plans know, and for a real one what its kernels share besides."""
    capability = ".".join(map(str, _selection.capability_of(device)))
    numbers = (
        f"compute capability {capability}, {_selection.multiprocessors_of(device)} multiprocessors"
    )
    if device.type != "cuda":
        return f"a GPU that is not here: {numbers}"
    gpu = torch.cuda.get_device_properties(device)
    shared = gpu.shared_memory_per_multiprocessor / 1024
    return (
        f"{gpu.name}: {numbers}, {shared:.0f} KB of shared memory in each, "
        f"{gpu.L2_cache_size / 2**20:.0f} MB of L2 cache"
    )


def _unit_from(arguments: dict[str, Any], relu: bool = True) -> ConvUnit:
    names = ("weight", "gamma", "beta", "running_mean", "running_var", "training", "eps")
    options = {name: arguments[name] for name in (*names, "process_group")}
    for name in ("stride", "padding", "dilation"):
        value = arguments.get(name, 0 if name == "padding" else 1)
        options[name] = (value, value) if isinstance(value, int) else tuple(value)
    return ConvUnit(**options, groups=arguments.get("groups", 1), relu=relu)


_OPS: dict[Callable[..., Tensor], Callable[[dict[str, Any]], BranchCall]] = {
    ops.conv_bn_relu: lambda a: BranchCall(
        a["x"], [_unit_from(a, a["relu"])], residual=a["residual"]
    ),
    ops.conv_bn_relu_max_pool2d: lambda a: BranchCall(
        a["x"],
        [_unit_from(a)],
        max_pool=PoolWindow(a["pool_kernel_size"], a["pool_stride"], a["pool_padding"]),
    ),
    ops.bottleneck_reduce: lambda a: BranchCall(a["x"], [_unit_from(a)]),
    ops.bottleneck_expand: lambda a: BranchCall(
        a["x"], [_unit_from(a)], a["projection"], a["residual"]
    ),
    ops.bottleneck_block: lambda a: BranchCall(
        a["x"], [copy.copy(a[name]) for name in ("reduce", "convolve", "expand")], ops.Identity()
    ),
    ops.conv_unit: lambda a: BranchCall(a["x"], [copy.copy(a["unit"])], residual=a["residual"]),
    ops.residual_branch: lambda a: BranchCall(
        a["x"],
        [copy.copy(u) for u in a["units"]],
        copy.copy(a["shortcut"]),
        options=BranchOptions(a["memory"], a["closed_form"]),
        entry=copy.copy(a["entry"]),
        relu=a["relu"],
    ),
}


class _Operand(NamedTuple):
    shape: Shape
    channels_last: bool


def _explain_call(
    call: BranchCall, names: dict[int, str], gpu: Gpu, input_gradient: bool
) -> list[UnitPlan]:
    """The units of one call in the order in which they run: the branch's first, the shortcut before the last."""
    dtype = _compute_dtype(call.x)
    backend = _backend.resolve(call.x).name
    projection = [call.shortcut] if isinstance(call.shortcut, ConvUnit) else []
    units = [*call.units, *projection]
    traced = None
    if call.is_training:
        traced = trace(call, input_gradient=input_gradient, dtype=dtype)
    source = _Operand(_shape(call.x), is_channels_last(call.x))
    flow = source
    plans: list[UnitPlan] = []
    last = len(call.units) - 1

    def add(i: int, name: str, operation: str, x: _Operand, adds: bool) -> _Operand:
        unit = units[i]
        plan, y = _plan(names.get(id(unit.weight), name), operation, x, unit, adds, dtype, backend)
        if traced is None:
            pooled = call.max_pool == FUSED_WINDOW and unit.relu
            plan, y = _inference(plan, y, unit, adds, pooled, gpu)
            if call.entry is not None:
                norm = "running statistics, applied while the next convolution loads"
                plan = replace(plan, batch_norm=norm if unit.batch_norm else _NONE)
        else:
            norm = _batch_norm(traced.obstacles[i], unit)
            plan = replace(plan, passes=tuple(_training(traced, i, gpu)), batch_norm=norm)
        plans.append(plan)
        return y

    for i, unit in enumerate(call.units):
        adds = i == last and (call.shortcut is not None or call.residual is not None)
        relu = call.relu if i == last and call.is_branch else unit.relu
        operation = ("bn + relu + " if i == 0 and call.entry is not None else "") + _name(unit)
        operation += (" + add" if adds else "") + (" + relu" if relu else "")
        operation += " + dropout" if unit.dropout else ""
        if i == last and projection:
            # bottleneck_expand's projection reads the op's `residual`, a block's projection the block's input.
            other = call.residual
            start = source if other is None else _Operand(_shape(other), is_channels_last(other))
            add(last + 1, "projection", _name(units[-1]), start, False)
        flow = add(i, f"units[{i}]", operation, flow, adds)
    adds_itself = isinstance(call.shortcut, Identity) and call.relu and call.entry is None
    if traced is None and adds_itself and are_units_of_block(source.shape, call.units):
        return _in_one_launch(plans, call.x.device, gpu)
    return plans


def _in_one_launch(plans: list[UnitPlan], device: torch.device, gpu: Gpu) -> list[UnitPlan]:
    """A bottleneck's units, of which the first one has the pass that computes all, where there is such a kernel."""
    first, dtype = plans[0], plans[0].dtype
    kernel, tile, why, is_tf32 = planned_block(first.input, first.weight[0], dtype, device)
    if tile is None:
        return plans
    flops = sum(p.flops for plan in plans for p in plan.passes)
    weights = dtype.itemsize * sum(_count(plan.weight) for plan in plans)
    of_x = dtype.itemsize * _count(first.input)
    reads, writes = Bytes(of_x, weights), Bytes(of_x)
    floor = gpu.floor_us(flops, (reads + writes).total, dtype, is_tf32)
    one = PassPlan("block", kernel, tile, why, flops, reads, writes, floor)
    return [replace(first, passes=(one,)), *(replace(plan, passes=()) for plan in plans[1:])]


def _plan(
    name: str,
    operation: str,
    x: _Operand,
    unit: ConvUnit,
    adds: bool,
    dtype: torch.dtype,
    backend: str,
) -> tuple[UnitPlan, _Operand]:
    """The unit without its passes, and its output."""
    weight = _shape(unit.weight)
    output = _convolution(x.shape, unit).output
    # torch's rule for convolutions: channels_last if either operand is.
    flow = _Operand(output, x.channels_last or is_channels_last(unit.weight))
    copies = tuple(_copies(x, flow, unit, dtype.itemsize, backend))
    shapes = (x.shape, weight, output)
    return UnitPlan(name, operation, *shapes, dtype, unit.training, (), copies), flow


def _inference(
    plan: UnitPlan, y: _Operand, unit: ConvUnit, adds: bool, pooled: bool, gpu: Gpu
) -> tuple[UnitPlan, _Operand]:
    """With the fused unit's one pass: input, weight and residual read, output written. pooled: it is
    pooled next, which the convolution's kernel does where it can."""
    convolution, size = _convolution(plan.input, unit), plan.dtype.itemsize
    found = planned(convolution, plan.dtype, unit.weight.device)
    if pooled:
        also = planned(convolution._replace(max_pool=True), plan.dtype, unit.weight.device)
        if also.tile is not None:
            n, k, p, q = plan.output
            found, y = also, y._replace(shape=(n, k, (p + 1) // 2, (q + 1) // 2))
            operation = plan.operation + " + max_pool"
            plan = replace(plan, operation=operation, output=y.shape)
    kernel, tile, why, is_tf32 = found
    of_x, of_y, weight = (size * _count(shape) for shape in (plan.input, y.shape, plan.weight))
    reads, writes = Bytes(of_x + (of_y if adds else 0), weight), Bytes(of_y)
    floor = gpu.floor_us(convolution.flops, (reads + writes).total, plan.dtype, is_tf32)
    one = PassPlan("fprop", kernel, tile, why, convolution.flops, reads, writes, floor)
    return replace(plan, passes=(one,)), y


def _training(traced: Trace, unit: int, gpu: Gpu) -> Iterator[PassPlan]:
    """The executor's passes that serve this unit."""
    for order, one in enumerate(traced.passes):
        if one.unit == unit:
            kernel, tile, why, is_tf32 = one.plan
            name = one.name.removeprefix("conv_")
            if one.convolutions and not one.bytes.activations:
                name = "matrix product"  # of a weight's size
            yield PassPlan(
                *(name if one.operations == 1 else f"{name} x{one.operations}", kernel, tile, why),
                *(one.flops, one.reads, one.writes),
                gpu.floor_us(one.flops, one.bytes.total, one.dtype, is_tf32),
                one.phase,
                order,
            )


_NONE = "none"


def _name(unit: ConvUnit) -> str:
    return "conv + bn" if unit.batch_norm else "conv"


def _batch_norm(obstacle: str | None, unit: ConvUnit) -> str:
    if not unit.batch_norm:
        return _NONE
    group = unit.group()
    over = "" if group is None else f", over {group.size()} ranks"
    if obstacle is None:
        return f"its output is never stored: statistics from the Gram matrix of what it reads{over}"
    return f"its output is stored: {obstacle}{over}"


def _convolution(x: Shape, unit: ConvUnit) -> Convolution:
    return Convolution("fprop", x, _shape(unit.weight), *unit.geometry())


def _copies(x: _Operand, y: _Operand, unit: ConvUnit, size: int, backend: str) -> list[str]:
    """The kernels read and write channels_last; anything else is copied. ATen copies only where operands differ."""
    kernels = backend in ("cuda", "emulated")
    mixed = y.channels_last and not x.channels_last
    out = []
    if mixed or (kernels and not x.channels_last):
        out.append(f"input from NCHW to channels_last, {2 * _count(x.shape) * size / 1e6:.2f} MB")
    weight = unit.weight
    if kernels and not weight.is_contiguous(memory_format=torch.channels_last):
        out.append(f"weight to channels_last, {2 * weight.numel() * size / 1e6:.2f} MB")
    if kernels and not y.channels_last:
        out.append(f"output back to NCHW, {2 * _count(y.shape) * size / 1e6:.2f} MB")
    return out


def _shape(tensor: Tensor) -> Shape:
    a, b, c, d = tensor.shape
    return a, b, c, d


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


def _count(shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _dims(shape: Sequence[int]) -> str:
    return "x".join(str(extent) for extent in shape)


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
