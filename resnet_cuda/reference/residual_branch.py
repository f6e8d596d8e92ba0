"""A whole residual block in plain torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from resnet_cuda.reference.bn_relu import bn_relu
from resnet_cuda.reference.bottleneck import conv_unit

if TYPE_CHECKING:
    from resnet_cuda.ops import ConvUnit, NormUnit
    from resnet_cuda.ops.residual_branch import Shortcut


def residual_branch(
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    *,
    entry: NormUnit | None = None,
    relu: bool = True,
) -> Tensor:
    """relu?(units[-1](... units[0](a)) + shortcut(x)), x [N, C, H, W], a = relu(bn(x)) with `entry`, else x;
    a projection reads a."""
    from resnet_cuda.ops import ConvUnit, Identity

    a = x
    if entry is not None:
        a = bn_relu(x, *entry.bn(), **entry.spec()._asdict())
    z = a
    for unit in units[:-1]:
        z = F.dropout(conv_unit(z, unit), unit.dropout)
    z = conv_unit(z, units[-1], relu=False)
    if isinstance(shortcut, ConvUnit):
        z = z + conv_unit(a, shortcut, relu=False)
    elif isinstance(shortcut, Identity):
        z = z + x
    elif shortcut is not None:
        sampled = x[:, :, :: shortcut.stride, :: shortcut.stride]
        z = z + F.pad(sampled, (0, 0, 0, 0, 0, shortcut.out_channels - x.shape[1]))
    return F.relu(z) if relu else z
