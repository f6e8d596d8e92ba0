"""A whole residual block as one differentiable call (He et al. 2015, arXiv 1512.03385, sec. 3.2-3.3).

The modules describe a block as conv units and a shortcut; this is the one executor of such descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _autocast, _validate
from resnet_cuda.ops._folding import is_plain
from resnet_cuda.ops.bottleneck import bottleneck_expand
from resnet_cuda.ops.conv_bn_relu import requires_grad
from resnet_cuda.ops.conv_unit import ConvUnit, run_unit


@dataclass
class Identity:
    """The shortcut is the block's input itself."""


@dataclass
class ZeroPad:
    """Option A (He et al. 2015, sec. 3.3): every `stride`-th pixel of the input, zero channels
    added at the end."""

    stride: int
    out_channels: int

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, out_channels, (H - 1) // stride + 1, (W - 1) // stride + 1]."""
        _validate.pair(self.stride, "stride", 1)
        extra = self.out_channels - x.shape[1]
        if extra < 0:
            raise ValueError(
                f"out_channels is {self.out_channels}; accepted: at least x's {x.shape[1]} channels"
            )
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, extra))


Shortcut = ConvUnit | Identity | ZeroPad


def residual_branch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    *,
    donate_input: bool = False,
) -> Tensor:
    """relu(units[-1](... units[0](x)) + shortcut(x)): each unit with its own ReLU flag but the last.

    Args:
        x: [N, C, H, W].
        units: the branch's conv units in order; the last one's ReLU flag is ignored, the block's
            ReLU follows the addition.
        shortcut: a ConvUnit (projection; its ReLU flag is ignored), Identity, ZeroPad, or None: no
            addition (plain net).
        donate_input: the caller gives x up: where nothing is differentiated, the result may be
            written into its memory.

    Returns:
        [N, K, P, Q], the last unit's output shape.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`; ValueError without units.
    """
    if not units:
        raise ValueError("units is empty; accepted: at least one ConvUnit")
    if shortcut is not None and not isinstance(shortcut, (ConvUnit, Identity, ZeroPad)):
        raise TypeError(
            f"shortcut is a {type(shortcut).__name__}; accepted: ConvUnit, Identity, ZeroPad or None"
        )
    _validate.activation(x, "x")
    dtype = _autocast.autocast_dtype(x) or x.dtype
    compute = _wider_dtype(x, dtype, units, shortcut)
    if compute is None:
        return _compose(x, units, shortcut, donate_input, None)
    wide = x.to(dtype).to(compute)
    return _compose(wide, units, shortcut, donate_input or wide is not x, dtype).to(dtype)


def _wider_dtype(
    x: Tensor, dtype: torch.dtype, units: Sequence[ConvUnit], shortcut: Shortcut | None
) -> torch.dtype | None:
    """The dtype in which CPU inference of the whole block is faster than in its own, if there is one."""
    if not is_plain(x) or x.shape[0] == 0:
        return None
    compute = _backend.resolve(x).inference_dtype(dtype)
    if compute == dtype:
        return None
    every = [*units, shortcut] if isinstance(shortcut, ConvUnit) else units
    for unit in every:
        if unit.training or unit.folded is None:
            return None
        if not isinstance(unit.weight, Tensor) or unit.weight.dtype not in (x.dtype, dtype):
            return None  # the unit's own checks say what is wrong
        if torch.is_grad_enabled() and requires_grad(x, unit.weight, unit.gamma, unit.beta):
            return None
    return compute


def _compose(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    donate_input: bool,
    widened_from: torch.dtype | None,
) -> Tensor:
    z = x
    for unit in units[:-1]:
        z = run_unit(z, unit, None, unit.relu, launch=_launch(unit), widened_from=widened_from)
    last = units[-1]
    if shortcut is None:
        return run_unit(z, last, None, True, launch=_launch(last), widened_from=widened_from)
    if isinstance(shortcut, ConvUnit):
        if _backend.resolve(x).fuses_projection and _expands(last) and shortcut.is_pointwise:
            return bottleneck_expand(
                z,
                last.weight,
                *last.bn(),
                x,
                projection=shortcut,
                training=last.training,
                momentum=last.momentum,
                eps=last.eps,
            )
        launch = _launch(shortcut)
        residual = run_unit(x, shortcut, None, False, launch=launch, widened_from=widened_from)
    elif isinstance(shortcut, ZeroPad):
        residual = shortcut(x)
    else:
        residual = x
    return run_unit(
        z,
        last,
        residual,
        True,
        launch="expand" if _expands(last) else "conv",
        # A branch of one unit convolves the very tensor that it adds: that one must stay whole.
        donate_residual=residual is not z and (residual is not x or donate_input),
        widened_from=widened_from,
    )


def _launch(unit: ConvUnit) -> str:
    return "reduce" if unit.is_pointwise else "conv"


def _expands(unit: ConvUnit) -> bool:
    return unit.is_pointwise and unit.stride in (1, (1, 1))
