"""GPUs by name, with the limits that floors are made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Gpu:
    """A GPU's limits: bytes per second and, per dtype, FLOP per second; float32 also where it is
    multiplied as TF32. source: where they come from."""

    name: str
    bandwidth: float
    flops: dict[torch.dtype, float]
    tf32_flops: float
    source: str = "datasheet, dense"

    def floor_us(self, flops: int, size: int, dtype: torch.dtype, is_tf32: bool = False) -> float:
        """Of one pass that multiplies this dtype: the longer of its arithmetic and its traffic."""
        rate = self.tf32_flops if is_tf32 else self.flops.get(dtype, self.flops[torch.float32])
        return max(flops / rate, size / self.bandwidth) * 1e6


def _rates(half: float, single: float, double: float) -> dict[torch.dtype, float]:
    return {
        torch.bfloat16: half,
        torch.float16: half,
        torch.float32: single,
        torch.float64: double,
    }


H200 = Gpu(
    "H200",
    4.3e12,
    _rates(790e12, 67e12, 34e12),
    395e12,
    "a copy and bfloat16 products of random data measured, TF32 half of those, the rest the datasheet's, dense",
)
GPUS = {
    gpu.name: gpu
    for gpu in (
        H200,
        Gpu("H100", 3.35e12, _rates(989e12, 67e12, 34e12), 494e12, "datasheet, SXM, dense"),
        Gpu(
            "A100", 2.039e12, _rates(312e12, 19.5e12, 9.7e12), 156e12, "datasheet, SXM 80 GB, dense"
        ),
        Gpu("RTX 4090", 1.008e12, _rates(165e12, 82.6e12, 1.29e12), 82.6e12),
    )
}
