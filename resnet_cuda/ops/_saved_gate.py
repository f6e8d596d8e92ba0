"""What the forward of batch norm and ReLU saves of the gate, and how their backward uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


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
