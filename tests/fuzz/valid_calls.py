"""One valid call of every public op, module, function and raw op, argument by argument, as source text."""

from __future__ import annotations

# What the expressions below and in nonsense.py mean; printed in front of a call that fails.
PRELUDE = """\
import torch
import resnet_cuda
from resnet_cuda import models, nn, ops, testing, use_backend
from resnet_cuda.ops import ConvUnit, Identity, NormUnit, ZeroPad

raw = torch.ops.resnet_cuda
CL = torch.channels_last
F32, F64 = torch.float32, torch.float64

def t(*size, dtype=F64):
    torch.manual_seed(0)
    x = (torch.rand(size) + 0.5).to(dtype)
    return x.contiguous(memory_format=CL) if len(size) == 4 else x

def meta(*size, dtype=F32):  # a shape alone
    return torch.empty(size, dtype=dtype, device="meta")

def fake(*size, dtype=F32):  # dense (channels_last) at an address that nobody may read
    storage = torch._C._construct_storage_from_data_pointer(4096, torch.device("cpu"), 2**63 - 1)
    order = (0, 2, 3, 1) if len(size) == 4 else range(len(size))
    strides, step = [0] * len(size), 1
    for i in reversed(order):
        strides[i], step = step, min(step * size[i], 2**63 - 1)
    return torch.empty(0, dtype=dtype).set_(storage, 0, size, strides)

def unit(k, c, r=1, **options):
    return ConvUnit(t(k, c, r, r), t(k), t(k), t(k), t(k), **options)

def sequential():
    return torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU()).eval()

def module(kind, x, residual=None, **options):
    torch.manual_seed(0)
    built = kind(**options).double().eval()
    return built(x) if residual is None else built(x, residual)
"""

_X, _W = "t(2, 4, 6, 5)", "t(8, 4, 3, 3)"
_VECTORS = dict.fromkeys(("gamma", "beta", "running_mean", "running_var"), "t(8)")
_NORM = {"training": "False", "momentum": "0.1", "eps": "1e-5"}
_GEOMETRY = {"stride": "1", "padding": "1", "dilation": "1", "groups": "1"}
_CONV = {"x": _X, "weight": _W, **_VECTORS}
_BLOCK = {"x": _X, "inplanes": "4", "planes": "4", "stride": "1", "dilation": "1"}

PUBLIC: dict[str, dict[str, str]] = {
    "ops.conv_bn_relu": {
        **_CONV,
        "residual": "t(2, 8, 6, 5)",
        **_GEOMETRY,
        **_NORM,
        "relu": "True",
        "process_group": "None",
    },
    "ops.conv_bn_relu_max_pool2d": {
        **_CONV,
        **_GEOMETRY,
        "pool_kernel_size": "3",
        "pool_stride": "2",
        "pool_padding": "1",
        **_NORM,
    },
    "ops.bn_relu": {
        "x": "t(2, 8, 6, 5)",
        **_VECTORS,
        "residual": "t(2, 8, 6, 5)",
        **_NORM,
        "relu": "True",
        "process_group": "None",
    },
    "ops.add_relu": {"x": _X, "residual": _X},
    "ops.max_pool2d": {"x": _X, "kernel_size": "3", "stride": "2", "padding": "1"},
    "ops.global_avg_pool": {"x": _X},
    "ops.bottleneck_reduce": {**_CONV, "weight": "t(8, 4, 1, 1)", "stride": "2", **_NORM},
    "ops.bottleneck_expand": {
        **_CONV,
        "weight": "t(8, 4, 1, 1)",
        "residual": "t(2, 3, 6, 5)",
        "projection": "unit(8, 3)",
        **_NORM,
    },
    "ops.bottleneck_expand_reduce": {
        "x": _X,
        "expand": "unit(8, 4)",
        "residual": "t(2, 8, 6, 5)",
        "reduce": "unit(4, 8)",
    },
    "ops.bottleneck_block": {
        "x": _X,
        "reduce": "unit(3, 4)",
        "convolve": "unit(3, 3, 3, padding=(1, 1))",
        "expand": "unit(4, 3)",
    },
    "ops.residual_branch": {
        "x": _X,
        "units": "[unit(3, 4), unit(4, 3)]",
        "shortcut": "Identity()",
        "entry": "None",
        "relu": "True",
        "donate_input": "False",
        "memory": "'save'",
        "closed_form": "None",
    },
    "ops.conv_unit": {"x": _X, "unit": "unit(8, 4)", "residual": "t(2, 8, 6, 5)"},
    "resnet_cuda.fuse": {"model": "sequential()", "inplace": "False", "memory": "'recompute'"},
    "resnet_cuda.unfuse": {"model": "resnet_cuda.fuse(sequential())", "inplace": "False"},
    "resnet_cuda.fuse_report": {"model": "sequential()"},
    "resnet_cuda.explain": {"module_or_op": "sequential()", "x": "t(2, 4, 6, 5, dtype=F32)"},
    "use_backend": {"name": "'cpu'"},
    "testing.emulated": {
        "checked": "False",
        "schedule": "'random'",
        "seed": "1",
        "workers": "None",
        "tma": "'late'",
        "capability": "(8, 0)",
        "multiprocessors": "4",
    },
}

MODULES: list[dict[str, str]] = [
    {
        "kind": "nn.ConvBNReLU",
        "x": _X,
        "residual": "t(2, 8, 6, 5)",
        "in_channels": "4",
        "out_channels": "8",
        "kernel_size": "3",
    },
    {"kind": "nn.BNReLU", "x": _X, "residual": _X, "num_features": "4"},
    {"kind": "nn.AddReLU", "x": _X, "residual": _X},
    {"kind": "nn.BasicBlock", **_BLOCK},
    {"kind": "nn.Bottleneck", **_BLOCK, "planes": "1"},
    {"kind": "nn.PreActBasicBlock", **_BLOCK},
    {"kind": "nn.WideBasicBlock", **_BLOCK},
]

_BN_BACKWARD = {
    "y": "None",
    "coefficients": "None",
    "gate_scale": "None",
    "gate_bias": "None",
}
_LISTS = {"stride": "[1, 1]", "padding": "[1, 1]", "dilation": "[1, 1]", "groups": "1"}
_PIXELS = "t(2, 8, 6, 5, dtype=F32)"
_VECTOR = "t(8, dtype=F32)"
_BITS = "t(60, dtype=torch.uint8)"
_ON_LOAD = {"x_scale": _VECTOR, "x_bias": _VECTOR, "x_floor": _VECTOR}
_ACT = {"act_scale": _VECTOR, "act_bias": _VECTOR, "act_mean": _VECTOR}
_FILTERS = "t(8, 8, 1, 1, dtype=F32)"
_DOUBLES, _DOUBLE_MATRIX, _ROWS_OF_ALL = "t(8)", "t(8, 8)", "t()"

RAW: dict[str, dict[str, str]] = {
    "_conv_fprop": {
        "x": _PIXELS,
        "weight": "t(8, 8, 3, 3, dtype=F32)",
        "x_scale": _VECTOR,
        "x_bias": _VECTOR,
        "scale": _VECTOR,
        "bias": _VECTOR,
        "residual": _PIXELS,
        "relu": "True",
        **_LISTS,
        "statistics": "False",
        "x_floor": _VECTOR,
        "residual_scale": _VECTOR,
        "mask": "True",
    },
    "_conv_dgrad": {
        "dy": _PIXELS,
        "weight": "t(8, 8, 3, 3, dtype=F32)",
        "input_size": "[2, 8, 6, 5]",
        "addend": _PIXELS,
        "act": _PIXELS,
        **_ACT,
        **_LISTS,
        **_BN_BACKWARD,
        "addend_mask": _BITS,
        "addend_stride": "1",
    },
    "_conv_wgrad": {
        "dy": _PIXELS,
        "x": _PIXELS,
        "weight_size": "[8, 8, 3, 3]",
        "x_scale": _VECTOR,
        "x_bias": _VECTOR,
        **_LISTS,
        **_BN_BACKWARD,
        "x_floor": _VECTOR,
    },
    "_conv_max_pool": {
        "x": _PIXELS,
        "weight": "t(8, 8, 3, 3, dtype=F32)",
        "scale": _VECTOR,
        "bias": _VECTOR,
        **_LISTS,
    },
    "_bottleneck_reduce": {
        "x": _PIXELS,
        "weight": _FILTERS,
        "scale": _VECTOR,
        "bias": _VECTOR,
        "stride": "2",
        "relu": "True",
        "statistics": "False",
    },
    "_bottleneck_expand": {
        "x": _PIXELS,
        "weight": _FILTERS,
        "scale": _VECTOR,
        "bias": _VECTOR,
        "residual": "t(2, 8, 12, 10, dtype=F32)",
        "projection_weight": _FILTERS,
        "projection_scale": _VECTOR,
        "projection_bias": _VECTOR,
        "projection_stride": "2",
        "relu": "True",
        "statistics": "False",
    },
    "_bottleneck_expand_reduce": {
        "x": _PIXELS,
        "weight": _FILTERS,
        "scale": _VECTOR,
        "bias": _VECTOR,
        "residual": _PIXELS,
        "next_weight": _FILTERS,
        "next_scale": _VECTOR,
        "next_bias": _VECTOR,
    },
    "_bottleneck_block": {
        "x": _PIXELS,
        "reduce_weight": _FILTERS,
        "reduce_scale": _VECTOR,
        "reduce_bias": _VECTOR,
        "convolve_weight": "t(8, 8, 3, 3, dtype=F32)",
        "convolve_scale": _VECTOR,
        "convolve_bias": _VECTOR,
        "expand_weight": _FILTERS,
        "expand_scale": _VECTOR,
        "expand_bias": _VECTOR,
    },
    "_bottleneck_gram": {"x": _PIXELS, **_ON_LOAD, "stride": "1"},
    "_bottleneck_expand_wgrad": {
        "dz": _PIXELS,
        "mask": _BITS,
        "x": _PIXELS,
        **_ON_LOAD,
        "stride": "1",
    },
    "_bottleneck_expand_dgrad": {
        "dz": _PIXELS,
        "mask": _BITS,
        "weight": "t(8, 8, dtype=F32)",
        "x": _PIXELS,
        **_ON_LOAD,
        "matrix": "t(8, 8, dtype=F32)",
        "bias": _VECTOR,
        "stride": "1",
        **_ACT,
    },
    "_closed_form_finalize": {
        "weight": _FILTERS,
        "sums": _DOUBLES,
        "gram": _DOUBLE_MATRIX,
        "shift": _VECTOR,
        "rows": "60",
        "rows_of_all": _ROWS_OF_ALL,
        "own_sums": _DOUBLES,
        "gamma": _VECTOR,
        "beta": _VECTOR,
        "running_mean": _VECTOR,
        "running_var": _VECTOR,
        "momentum": "0.1",
        "eps": "1e-5",
    },
    "_closed_form_backward_reduce": {
        "weight": _FILTERS,
        "product": _DOUBLE_MATRIX,
        "sums": _DOUBLES,
        "mean": _DOUBLES,
        "excess": _DOUBLES,
        "invstd": _DOUBLES,
    },
    "_closed_form_backward_finalize": {
        "weight": _FILTERS,
        "product": _DOUBLE_MATRIX,
        "sums": _DOUBLES,
        "gram": _DOUBLE_MATRIX,
        "mean": _DOUBLES,
        "excess": _DOUBLES,
        "moments": _DOUBLES,
        "shift": _VECTOR,
        "invstd": _DOUBLES,
        "gamma": _VECTOR,
        "dgamma_of_all": _DOUBLES,
        "sums_of_all": _DOUBLES,
        "rows": "60",
        "rows_of_all": _ROWS_OF_ALL,
        "weight_grad": "True",
        "input_grad": "True",
    },
    "_bn_statistics": {"y": _PIXELS},
    "_bn_finalize": {
        "partials": "t(1, 2, 8, dtype=F32)",
        "rows": "60",
        "gamma": _VECTOR,
        "beta": _VECTOR,
        "running_mean": _VECTOR,
        "running_var": _VECTOR,
        "momentum": "0.1",
        "eps": "1e-5",
    },
    "_bn_apply": {
        "y": _PIXELS,
        "scale": _VECTOR,
        "bias": _VECTOR,
        "residual": _PIXELS,
        "relu": "True",
        "mask": "True",
        "residual_scale": _VECTOR,
    },
    "_bn_backward_reduce": {
        "dz": _PIXELS,
        "y": _PIXELS,
        "mean": _VECTOR,
        "mask": _BITS,
        "gate_scale": "None",
        "gate_bias": "None",
    },
    "_bn_backward_finalize": {
        "partials": "t(1, 2, 8, dtype=F32)",
        "rows": "60",
        "gamma": _VECTOR,
        "mean": _VECTOR,
        "invstd": _VECTOR,
        "training": "True",
    },
    "_bn_backward_apply": {
        "dz": _PIXELS,
        "y": _PIXELS,
        "mask": _BITS,
        "gate_scale": "None",
        "gate_bias": "None",
        "coefficients": "t(4, 8, dtype=F32)",
        "residual_grad": "False",
        "addend": _PIXELS,
    },
    "_add_relu_forward": {"x": _PIXELS, "residual": _PIXELS, "mask": "True"},
    "_add_relu_backward": {"dz": _PIXELS, "mask": _BITS},
    "_max_pool_forward": {
        "x": _PIXELS,
        "kernel": "3",
        "stride": "2",
        "padding": "1",
        "argmax": "True",
    },
    "_max_pool_backward": {
        "dy": "t(2, 8, 3, 3, dtype=F32)",
        "argmax": "t(2, 8, 3, 3, dtype=torch.uint8)",
        "input_size": "[2, 8, 6, 5]",
        "kernel": "3",
        "stride": "2",
        "padding": "1",
    },
    "_global_avg_pool_forward": {"x": _PIXELS},
    "_global_avg_pool_backward": {
        "dy": "t(2, 8, 1, 1, dtype=F32)",
        "input_size": "[2, 8, 6, 5]",
    },
}

CALLS = [*PUBLIC.items(), *(("module", options) for options in MODULES)]
RAW_CALLS = [(f"raw.{name}", arguments) for name, arguments in RAW.items()]
