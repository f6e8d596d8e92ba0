"""What the forward of batch norm and ReLU saves of the gate, and how their backward uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from resnet_cuda import _raw
from resnet_cuda.ops._interface import Needs

_PIECE = 8  # 16-bit channels that the kernels copy at once


class SavedGate(NamedTuple):
    """How the ReLU's gate is known: by a bit mask, by batch norm's affine, or (all None) there is none."""

    mask: Tensor | None = None
    scale: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, saved: Sequence[Tensor]) -> SavedGate:
        """Of what `bn_forward` saved."""
        _, _, *gate = saved
        return cls(mask=gate[0]) if len(gate) == 1 else cls(None, *gate)


def unpack_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """mask uint8 [ceil(N C H W / 8)], bits in NHWC order -> bool [N, C, H, W]."""
    n, c, h, w = shape
    bits = (mask.unsqueeze(1) >> torch.arange(8, dtype=torch.uint8, device=mask.device)) & 1
    return bits.flatten()[: n * c * h * w].view(n, h, w, c).permute(0, 3, 1, 2).bool()


def normalises_gradient_on_load(
    weight: Tensor, groups: int, saved: Sequence[Tensor], needs: Needs
) -> bool:
    """Whether dgrad and wgrad shall read (dz, y) instead of a stored gradient of y: four tensors
    then pass through memory and not five.

    Only where the kernels load each element about once: 1x1 filters without groups, on tensor
    cores in whole pieces of channels. With a residual its gradient has to be stored anyway, in the
    pass that can also store y's.
    """
    filters, channels, *window = weight.shape
    return (
        _raw.has_tensor_cores(weight.device)
        and weight.dtype.itemsize == 2
        and window == [1, 1]
        and groups == 1
        and filters % _PIECE == 0
        and channels % _PIECE == 0
        and (needs.x or needs.weight)
        and not needs.residual
        and SavedGate.of(saved).mask is None
    )
