"""The device's ceilings, measured in the run that uses them: a large copy and large matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from resnet_cuda.bench.timing import Effort, measure

if TYPE_CHECKING:
    from resnet_cuda.bench.device import Device

Part = tuple[int, int]  # (floating-point operations, least bytes) of one perfect kernel


@dataclass(frozen=True)
class Ceilings:
    """bandwidth: bytes per second, read plus written. flops: per dtype name ("bfloat16"), FLOP per second."""

    bandwidth: float
    flops: Mapping[str, float]

    def floor(self, dtype: torch.dtype, parts: Iterable[Part]) -> float:
        """Seconds that no sequence of kernels with these parts can beat: each takes the longer of its arithmetic
        and its traffic."""
        rate = self.flops.get(str(dtype).removeprefix("torch."), 0.0)
        return sum(
            max(flops / rate if rate else 0.0, size / self.bandwidth) for flops, size in parts
        )

    def to_json(self) -> dict[str, Any]:
        return {"bandwidth": self.bandwidth, "flops": dict(self.flops)}


def measure_ceilings(device: Device, dtypes: Sequence[torch.dtype]) -> Ceilings:
    """A copy far larger than the caches, and square matrix products in each dtype, of random data."""
    size, n = (2**20, 128) if device.kind == "dry-run" else (2**26, 2048)
    target = device.torch_device
    source = torch.randn(size, device=target)
    copy = torch.empty_like(source)
    functions: dict[str, Callable[[], object]] = {"copy": lambda: copy.copy_(source)}
    for dtype in dtypes:
        a, b = (torch.randn(n, n, device=target).to(dtype) for _ in range(2))
        functions[_name(dtype)] = lambda a=a, b=b: a @ b  # type: ignore[misc]
    effort = Effort(seconds=2.0)
    times = {name: measure(device, {name: f}, effort)[name] for name, f in functions.items()}
    bandwidth = 2 * source.nbytes / min(times.pop("copy").samples)
    return Ceilings(bandwidth, {name: 2 * n**3 / min(t.samples) for name, t in times.items()})


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
