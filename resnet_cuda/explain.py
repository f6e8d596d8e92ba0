"""`explain`: what a module or op computes, which CUDA kernels serve it, and how fast it could be at best."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from resnet_cuda import _backend, _raw, ops
from resnet_cuda.fuse import FuseEntry, fuse_report
from resnet_cuda.nn._recording import BranchCall, listening
from resnet_cuda.ops import ConvUnit
from resnet_cuda.ops._layout import is_channels_last
from resnet_cuda.ops.conv_bn_relu_max_pool2d import FUSED_WINDOW
from resnet_cuda.ops.max_pool2d import PoolWindow

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Gpu:
    """A GPU's limits: bytes per second and, per dtype, FLOP per second; float32 also where it is
    multiplied as TF32."""

    name: str
    bandwidth: float
    flops: dict[torch.dtype, float]
    tf32_flops: float


# Bandwidth (a device-to-device copy) and the bf16 rate (random data) are measured; fp32, fp64 and TF32 (without
# sparsity) are the datasheet's.
H200 = Gpu(
    "H200",
    4.3e12,
    {torch.bfloat16: 790e12, torch.float16: 790e12, torch.float32: 67e12, torch.float64: 34e12},
    494e12,
)


@dataclass(frozen=True)
class PassPlan:
    """One convolution pass of one unit.

    `bytes` counts every operand once: input, weight and residual read, output written, the fused unit's
    least traffic. `floor_us` is max(flops / rate, bytes / bandwidth) on the report's GPU, in microseconds.
    """

    name: str
    kernel: str
    tile: tuple[int, int, int] | None
    why: str
    flops: int
    bytes: int
    floor_us: float


@dataclass(frozen=True)
class UnitPlan:
    """One convolution with its batch norm, and what follows it in the same call.

    Shapes are torch's logical ones: input [N, C, H, W], weight [K, C / groups, R, S], output [N, K, P, Q],
    pooled where the kernel pools it.
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


@dataclass
class Report:
    """What `explain` found; `str()` gives a table."""

    backend: str
    gpu: Gpu
    units: list[UnitPlan] = field(default_factory=list)
    left: list[FuseEntry] = field(default_factory=list)

    @property
    def flops(self) -> int:
        """Floating-point operations of all listed passes (2 per multiply-add)."""
        return sum(p.flops for unit in self.units for p in unit.passes)

    @property
    def bytes(self) -> int:
        """The least bytes that all listed passes move."""
        return sum(p.bytes for unit in self.units for p in unit.passes)

    @property
    def floor_us(self) -> float:
        """The sum of the passes' floors in microseconds: each pass as its own perfect kernel."""
        return sum(p.floor_us for unit in self.units for p in unit.passes)

    def __str__(self) -> str:
        lines = [
            f"served here by the {self.backend!r} backend; kernels are those that the CUDA build plans",
            f"floors: {self.gpu.name}, {self.gpu.bandwidth / 1e12:.1f} TB/s",
            "",
            *_table(self._rows()),
            "",
            f"{len(self.units)} units, {self.flops / 1e9:.2f} GFLOP, {self.bytes / 1e6:.1f} MB, "
            f"floor {self.floor_us:.1f} us",
        ]
        reasons = {p.kernel: p.why for unit in self.units for p in unit.passes}
        lines += ["", *(f"{kernel}: {why}" for kernel, why in reasons.items())]
        copies = [f"{unit.name}: {text}" for unit in self.units for text in unit.copies]
        lines += ["", "copies for the memory format:", *(copies or ["none"])]
        if self.left:
            lines += ["", "outside the fused calls:"]
            lines += [f"{e.path or '(the model)'}: {e.kind} {e.note}" for e in self.left]
        return "\n".join(lines)

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            ("unit", "operation", "pass", "input", "weight", "kernel", "tile", "GFLOP", "MB", "us")
        ]
        for unit in self.units:
            for i, p in enumerate(unit.passes):
                first = i == 0
                rows.append(
                    (
                        unit.name if first else "",
                        unit.operation if first else "",
                        p.name,
                        _dims(unit.input) if first else "",
                        _dims(unit.weight) if first else "",
                        p.kernel,
                        _dims(p.tile) if p.tile else "-",
                        f"{p.flops / 1e9:.3f}",
                        f"{p.bytes / 1e6:.2f}",
                        f"{p.floor_us:.2f}",
                    )
                )
        return rows


def explain(
    module_or_op: nn.Module | Callable[..., Tensor],
    *inputs: Any,
    training: bool | None = None,
    **options: Any,
) -> Report:
    """Per convolution unit: shapes, planned kernel and tile and why, FLOPs, least bytes, floor on an H200, and copies.

    A module is run once on a deep copy without gradients, so its statistics stay. An op is not run: its
    arguments say everything.

    Args:
        module_or_op: any module (fused parts are explained, the rest is listed), or `ops.conv_bn_relu`,
            `ops.conv_bn_relu_max_pool2d`, `ops.bottleneck_reduce`, `ops.bottleneck_expand`, `ops.conv_unit`,
            `ops.residual_branch`.
        inputs: what it is called with.
        training: True adds the backward passes and uses batch statistics; None keeps the module's mode, or
            the op's `training` argument.
        options: keyword arguments of the call.

    Raises:
        TypeError: module_or_op is neither a module nor one of these ops.
    """
    if isinstance(module_or_op, nn.Module):
        return _explain_module(module_or_op, inputs, options, training)
    if module_or_op not in _OPS:
        accepted = ", ".join(f"ops.{op.__name__}" for op in _OPS)
        raise TypeError(
            f"module_or_op is {module_or_op!r}; expected an nn.Module or one of {accepted}"
        )
    return _explain_op(module_or_op, inputs, options, training)


def _explain_module(
    module: nn.Module, inputs: Sequence[Any], options: dict[str, Any], training: bool | None
) -> Report:
    module = copy.deepcopy(module)
    if training is not None:
        module.train(training)
    names = {id(p): name.removesuffix(".weight") for name, p in module.named_parameters()}
    calls: list[BranchCall] = []
    with torch.no_grad(), listening(calls.append):
        module(*inputs, **options)
    report = _report(next((c.x for c in calls), None))
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
) -> Report:
    bound = inspect.signature(op).bind(*inputs, **options)
    bound.apply_defaults()
    call = _OPS[op](dict(bound.arguments))
    units = [*call.units, *([call.shortcut] if isinstance(call.shortcut, ConvUnit) else [])]
    names: dict[int, str] = {}
    for i, unit in enumerate(units):
        names[id(unit.weight)] = op.__name__ if len(units) == 1 else f"units[{i}]"
        if training is not None:
            unit.training = training
    if isinstance(call.shortcut, ConvUnit):
        names[id(call.shortcut.weight)] = "projection"
    report = _report(call.x)
    report.units = _explain_call(call, names, report.gpu, call.x.requires_grad)
    return report


def _report(x: Tensor | None) -> Report:
    return Report(_backend.backend() if x is None else _backend.resolve(x).name, H200)


def _unit_from(arguments: dict[str, Any], relu: bool = True) -> ConvUnit:
    names = ("weight", "gamma", "beta", "running_mean", "running_var", "training", "eps")
    options = {name: arguments[name] for name in names}
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
    ops.conv_unit: lambda a: BranchCall(a["x"], [copy.copy(a["unit"])], residual=a["residual"]),
    ops.residual_branch: lambda a: BranchCall(
        a["x"], [copy.copy(u) for u in a["units"]], copy.copy(a["shortcut"])
    ),
}


class _Operand(NamedTuple):
    shape: Shape
    channels_last: bool
    needs_grad: bool


def _explain_call(
    call: BranchCall, names: dict[int, str], gpu: Gpu, input_gradient: bool
) -> list[UnitPlan]:
    """The units of one call in the order in which they run: the branch's first, the shortcut before the last."""
    dtype = _compute_dtype(call.x)
    backend = _backend.resolve(call.x).name
    source = _Operand(_shape(call.x), is_channels_last(call.x), input_gradient)
    flow = source
    plans: list[UnitPlan] = []
    last = len(call.units) - 1
    for i, unit in enumerate(call.units):
        adds = i == last and (call.shortcut is not None or call.residual is not None)
        relu = (i == last and call.shortcut is not None) or unit.relu
        operation = "conv + bn" + (" + add" if adds else "") + (" + relu" if relu else "")
        if i == last and isinstance(call.shortcut, ConvUnit):
            # bottleneck_expand's projection reads the op's `residual`, a block's projection the block's input.
            other = call.residual
            start = source
            if other is not None:
                start = _Operand(_shape(other), is_channels_last(other), other.requires_grad)
            name = names.get(id(call.shortcut.weight), "projection")
            plan, _ = _plan(name, "conv + bn", start, call.shortcut, False, dtype, backend, gpu)
            plans.append(plan)
        name = names.get(id(unit.weight), f"units[{i}]")
        pooled = _pooled(flow.shape, unit, call.max_pool, dtype)
        operation += " + max_pool" if pooled else ""
        plan, flow = _plan(name, operation, flow, unit, adds, dtype, backend, gpu, pooled)
        plans.append(plan)
    return plans


def _pooled(
    x: Shape, unit: ConvUnit, window: PoolWindow | None, dtype: torch.dtype
) -> Shape | None:
    """The output's shape where the convolution's kernel also pools it, else None."""
    if window != FUSED_WINDOW or unit.training or not unit.relu:
        return None
    if _kernel("fprop", dtype, x, unit, max_pool=True)[1] is None:
        return None
    n, k, p, q = _output_shape(x, unit)
    return n, k, (p + 1) // 2, (q + 1) // 2


def _plan(
    name: str,
    operation: str,
    x: _Operand,
    unit: ConvUnit,
    adds: bool,
    dtype: torch.dtype,
    backend: str,
    gpu: Gpu,
    pooled: Shape | None = None,
) -> tuple[UnitPlan, _Operand]:
    weight = _shape(unit.weight)
    convolved = _output_shape(x.shape, unit)
    output = pooled or convolved
    # torch's rule for convolutions: channels_last if either operand is.
    flow = _Operand(output, x.channels_last or is_channels_last(unit.weight), True)
    size = dtype.itemsize
    elements = {"x": _count(x.shape), "w": _count(weight), "y": _count(output)}
    flops = 2 * _count(convolved) * weight[1] * weight[2] * weight[3]
    traffic = {"fprop": elements["x"] + elements["w"] + elements["y"] * (2 if adds else 1)}
    if unit.training:
        backward = ("dgrad", "wgrad") if x.needs_grad else ("wgrad",)
        traffic.update(dict.fromkeys(backward, sum(elements.values())))
    passes = []
    for kind, count in traffic.items():
        kernel, tile, why, is_tf32 = _kernel(kind, dtype, x.shape, unit, pooled is not None)
        rate = gpu.tf32_flops if is_tf32 else gpu.flops[dtype]
        floor = max(flops / rate, count * size / gpu.bandwidth) * 1e6
        passes.append(PassPlan(kind, kernel, tile, why, flops, count * size, floor))
    plan = UnitPlan(
        name,
        operation,
        x.shape,
        weight,
        output,
        dtype,
        unit.training,
        tuple(passes),
        tuple(_copies(x, flow, unit, size, backend)),
    )
    return plan, flow


def _kernel(
    kind: str, dtype: torch.dtype, x: Shape, unit: ConvUnit, max_pool: bool = False
) -> tuple[str, tuple[int, int, int] | None, str, bool]:
    """(kernel, tile, why, whether it multiplies as TF32) as the launcher plans it under torch's present switch;
    without the compiled host module, that fact."""
    try:
        from resnet_cuda import _host
    except ImportError:
        why = "resnet_cuda._host is not built, so the kernels' plan cannot be read"
        return "unknown", None, why, False
    plan = _host.conv_plan(
        kind,
        str(dtype).removeprefix("torch."),
        x,
        _shape(unit.weight),
        stride=unit.stride,
        padding=unit.padding,
        dilation=unit.dilation,
        groups=unit.groups,
        allow_tf32=_raw.allows_tf32(),
        max_pool=max_pool,
        capability=_raw.capability_of(unit.weight.device),
    )
    if plan["error"] is not None:
        return "none", None, plan["error"], False
    why = plan["why"]
    if dtype == torch.float32:
        switch = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        why += f" (torch.backends.cudnn.conv.fp32_precision is {switch!r})"
    return plan["kernel"], tuple(plan["tile"]), why, plan["tf32"]


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


def _output_shape(x: Shape, unit: ConvUnit) -> Shape:
    height, width = (
        (x[i + 2] + 2 * unit.padding[i] - unit.dilation[i] * (unit.weight.shape[i + 2] - 1) - 1)
        // unit.stride[i]
        + 1
        for i in range(2)
    )
    return x[0], unit.weight.shape[0], height, width


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
