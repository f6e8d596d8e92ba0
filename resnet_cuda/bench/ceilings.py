"""The device's ceilings, measured in the run that uses them: a large copy and large matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resnet_cuda.bench.timing import Effort, measure

if TYPE_CHECKING:
    from resnet_cuda.bench.device import Device

Part = tuple[int, int]  # (floating-point operations, least bytes) of one perfect kernel

# Edges of the matrices, smallest first: the next one is tried only if the last one says that there is time for it.
_EDGES = {"cuda": (4096, 8192), "cpu": (512, 1024, 2048), "dry-run": (64, 128)}
_SECONDS = {"cuda": 2.0, "cpu": 5.0, "dry-run": 0.0}  # for all that is measured together
_MIN_ROUNDS = 5
_CALLS_PER_MEASUREMENT = 10  # at least: warm-up and rounds, for predictions
_CACHES_IN_A_BUFFER = (
    8  # how many times the last cache is copied, so that what it keeps does not count
)
_DEFAULT_CACHE = {"cuda": 128 * 2**20, "cpu": 32 * 2**20}
_MAX_SPREAD = 0.2  # half the interquartile range over the median
_SHARE_OF_MEMORY = 0.1  # of what is free, for each of the copy's two buffers


@dataclass(frozen=True)
class Ceilings:
    """bandwidth: bytes per second, read plus written. flops: per dtype name ("bfloat16"), FLOP per second.

    details: what was measured, as in reports: {"copy": {"bytes", "median_us", ...}, "matmul": [{"dtype", "edge",
    "flops", "median_us", ...}, ...]}.
    """

    bandwidth: float
    flops: Mapping[str, float]
    details: Mapping[str, Any] = field(default_factory=dict)

    def floor(self, dtype: torch.dtype, parts: Iterable[Part]) -> float:
        """Seconds that no sequence of kernels with these parts can beat: each takes the longer of its arithmetic
        and its traffic."""
        return sum(max(times) for times in self._times(dtype, parts))

    def arithmetic(self, dtype: torch.dtype, parts: Iterable[Part]) -> float:
        """Seconds that the parts' products alone take at the measured rate; 0 for a dtype without a ceiling."""
        return sum(arithmetic for arithmetic, _ in self._times(dtype, parts))

    def memory_share(self, dtype: torch.dtype, parts: Iterable[Part]) -> float | None:
        """Which share of the floor belongs to parts whose traffic takes longer than their arithmetic, 0 to 1; None
        where the floor is 0."""
        times = list(self._times(dtype, parts))
        total = sum(max(pair) for pair in times)
        memory = sum(traffic for arithmetic, traffic in times if traffic > arithmetic)
        return memory / total if total else None

    def _times(self, dtype: torch.dtype, parts: Iterable[Part]) -> Iterator[tuple[float, float]]:
        """(seconds of arithmetic, seconds of traffic) of each part; a dtype without a ceiling has no arithmetic."""
        rate = self.flops.get(_name(dtype), 0.0)
        for flops, size in parts:
            yield flops / rate if rate else 0.0, size / self.bandwidth

    def doubts(self) -> list[str]:
        """Whose samples varied so much that other work on the machine must have been in them. A ceiling that is too
        low makes everything seem close to its floor, or beyond it."""
        rows = {"copy": self.details.get("copy")}
        for row in self.details.get("matmul", ()):
            if row["flops"] == self.flops.get(row["dtype"]):
                rows[f"matrix product, {row['dtype']}"] = row
        spreads = {name: _spread(row) for name, row in rows.items() if row}
        return [
            f"ceiling of {name}: its samples vary by ±{100 * spread:.0f}%, the machine was busy: mistrust 'of floor'"
            for name, spread in spreads.items()
            if spread > _MAX_SPREAD
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "bandwidth": self.bandwidth,
            "flops": dict(self.flops),
            "details": dict(self.details),
        }


def measure_ceilings(device: Device, dtypes: Sequence[torch.dtype]) -> Ceilings:
    """A copy many times larger than the last cache, and square matrix products of random data in each dtype.

    Rates are of the median time, like everything they are compared with: the fastest sample of many would be a rate
    that nobody gets twice. Of the matrix sizes the best counts. float32 is computed without TF32.
    """
    seconds = _SECONDS[device.kind] / (1 + len(dtypes))
    copy = _measure_copy(device, seconds)
    device.release_memory()  # the buffers are large, and what follows may need the room
    products = [row for dtype in dtypes for row in _measure_products(device, dtype, seconds)]
    flops: dict[str, float] = {}
    for row in products:
        flops[row["dtype"]] = max(flops.get(row["dtype"], 0.0), row["flops"])
    return Ceilings(copy["bytes_per_second"], flops, {"copy": copy, "matmul": products})


def buffer_bytes(device: Device) -> int:
    """Size of each of the copy's two buffers."""
    if device.kind == "dry-run":
        return 2**20
    wanted = _CACHES_IN_A_BUFFER * last_cache_bytes(device)
    return max(2**20, min(wanted, int(_SHARE_OF_MEMORY * device.free_memory())))


def last_cache_bytes(device: Device) -> int:
    """The last cache before memory: the device's fact "l2_bytes", the kernel's word on a CPU, else a large guess."""
    known = device.facts().get("l2_bytes") if device.kind == "cuda" else cpu_cache_bytes()
    return int(known or _DEFAULT_CACHE[device.kind])


def cpu_cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """The largest cache of the first CPU; None where the system does not tell."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = []
    for path in folder.glob("index*/size"):
        try:
            text = path.read_text().strip()
            sizes.append(int(text.rstrip("KMG")) * units.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)


def _spread(row: Mapping[str, Any]) -> float:
    return float((row["q3_us"] - row["q1_us"]) / 2 / row["median_us"])


def _measure_copy(device: Device, seconds: float) -> dict[str, Any]:
    size = buffer_bytes(device)
    # Random once and then repeated: 2**18 floats are enough to compress badly, and quick to make.
    source = torch.randn(min(2**18, size // 4), device=device.torch_device)
    source = source.repeat(max(1, size // source.nbytes))
    target = torch.empty_like(source)
    row = _measure(device, lambda: target.copy_(source), seconds)
    moved = 2 * source.nbytes
    row.update(bytes=moved, bytes_per_second=moved / (row["median_us"] * 1e-6))
    return row


def _measure_products(
    device: Device, dtype: torch.dtype, seconds: float
) -> Iterator[dict[str, Any]]:
    spent = 0.0
    for edge in _EDGES[device.kind]:
        a, b = (torch.randn(edge, edge, device=device.torch_device).to(dtype) for _ in range(2))
        with _full_float32():
            row = _measure(device, lambda a=a, b=b: a @ b, 0.3 * seconds)  # type: ignore[misc]
        rate = 2 * edge**3 / (row["median_us"] * 1e-6)
        yield {"dtype": _name(dtype), "edge": edge, **row, "flops": rate}
        spent += row["seconds"]
        # Twice the edge is eight times the work.
        if (
            spent + 8 * _CALLS_PER_MEASUREMENT * row["median_us"] * 1e-6 > 1.5 * seconds
            and seconds > 0
        ):
            return


def _measure(device: Device, function: Callable[[], object], seconds: float) -> dict[str, Any]:
    start = device.now()
    effort = Effort(seconds=seconds, min_rounds=_MIN_ROUNDS)
    row = measure(device, {"it": function}, effort)["it"].to_json()
    return {**row, "seconds": round(device.now() - start, 3)}


@contextmanager
def _full_float32() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
