"""A whole residual block as one differentiable call (He et al. 2015, arXiv 1512.03385, sec. 3.2-3.3).

The modules describe a block as conv units and a shortcut; this is the one executor of such descriptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from resnet_cuda import _backend
from resnet_cuda.ops import _validate
from resnet_cuda.ops.bottleneck import bottleneck_expand
from resnet_cuda.ops.conv_unit import ConvUnit, run_unit


@dataclass
class Identity:
    """The shortcut is the block's input itself."""


@dataclass
class ZeroPad:
    """Option A (He et al. 2015, sec. 3.3): every `stride`-th pixel of the input, zero channels added at the end."""

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
        units: the branch's conv units in order; the last one's ReLU flag is ignored, the block's ReLU follows the addition.
        shortcut: a ConvUnit (projection; its ReLU flag is ignored), Identity, ZeroPad, or None: no addition (plain net).
        donate_input: the caller gives x up: where nothing is differentiated, the result may be written into its memory.

    Returns:
        [N, K, P, Q], the last unit's output shape.

    Raises:
        TypeError, ValueError: as `conv_bn_relu`; ValueError without units.
    """
    if not units:
        raise ValueError("units is empty; accepted: at least one ConvUnit")
    z = x
    for unit in units[:-1]:
        z = run_unit(z, unit, None, unit.relu, launch=_launch(unit))
    last = units[-1]
    if shortcut is None:
        return run_unit(z, last, None, True, launch=_launch(last))
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
        residual = run_unit(x, shortcut, None, False, launch=_launch(shortcut))
    elif isinstance(shortcut, ZeroPad):
        residual = shortcut(x)
    elif isinstance(shortcut, Identity):
        residual = x
    else:
        raise TypeError(
            f"shortcut is a {type(shortcut).__name__}; accepted: ConvUnit, Identity, ZeroPad or None"
        )
    launch = "expand" if _expands(last) else "conv"
    donate = residual is not x or donate_input
    return run_unit(z, last, residual, True, launch=launch, donate_residual=donate)


def _launch(unit: ConvUnit) -> str:
    return "reduce" if unit.is_pointwise else "conv"


def _expands(unit: ConvUnit) -> bool:
    return unit.is_pointwise and unit.stride in (1, (1, 1))
