"""What our raw ops multiply, read off their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from resnet_cuda.trace.kernel_plan import Convolution, Shape


def products_of(name: str, arguments: Mapping[str, Any]) -> dict[str, Convolution]:
    """The products in one call of an op ("conv_fprop"), by the argument that holds what is multiplied."""
    return _PRODUCTS[name](arguments) if name in _PRODUCTS else {}


def _shape(extents: Sequence[int]) -> Shape:
    a, b, c, d = extents
    return a, b, c, d


def _of_conv(
    kind: str, a: Mapping[str, Any], x: Sequence[int], weight: Sequence[int]
) -> Convolution:
    stride, padding, dilation = (tuple(a[name]) for name in ("stride", "padding", "dilation"))
    return Convolution(
        kind,
        _shape(x),
        _shape(weight),
        stride,
        padding,
        dilation,
        a["groups"],
        narrow=a.get("y") is not None,
        normalises=kind == "fprop" and a["x_scale"] is not None,
        takes_sums=kind == "dgrad" and a["act_mean"] is not None,
    )


def _pointwise(
    kind: str,
    x: Tensor,
    filters: int,
    stride: int = 1,
    narrow: bool = False,
    normalises: bool = False,
) -> Convolution:
    weight, strides = (filters, x.shape[1], 1, 1), (stride, stride)
    return Convolution(kind, _shape(x.shape), weight, strides, narrow=narrow, normalises=normalises)


def _of_expand(a: Mapping[str, Any]) -> dict[str, Convolution]:
    filters, projects = a["weight"].shape[0], a["projection_weight"] is not None
    normalises = not projects and a["x_scale"] is not None
    found = {"x": _pointwise("fprop", a["x"], filters, narrow=projects, normalises=normalises)}
    if projects:
        stride = a["projection_stride"]
        found["residual"] = _pointwise("fprop", a["residual"], filters, stride, narrow=True)
    return found


def _of_expand_dgrad(a: Mapping[str, Any]) -> dict[str, Convolution]:
    n, c, *_ = a["x"].shape
    k, p, q = a["dz"].shape[1:]
    return {  # the gradient is that of the pixels that were read
        "dz": Convolution("dgrad", (n, c, p, q), (k, c, 1, 1), narrow=True),
        "x": _pointwise("fprop", a["x"], a["matrix"].shape[0], a["stride"], narrow=True),
    }


_PRODUCTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Convolution]]] = {
    "conv_fprop": lambda a: {"x": _of_conv("fprop", a, a["x"].shape, a["weight"].shape)},
    "conv_dgrad": lambda a: {"dy": _of_conv("dgrad", a, a["input_size"], a["weight"].shape)},
    "conv_wgrad": lambda a: {"x": _of_conv("wgrad", a, a["x"].shape, a["weight_size"])},
    "bottleneck_expand": _of_expand,
    "bottleneck_gram": lambda a: {"x": _pointwise("gram", a["x"], a["x"].shape[1], a["stride"])},
    "bottleneck_expand_wgrad": lambda a: {
        "x": _pointwise("product", a["x"], a["dz"].shape[1], a["stride"])
    },
    "bottleneck_expand_dgrad": _of_expand_dgrad,
}
