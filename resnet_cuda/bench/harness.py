"""What the harness itself is worth: the same function measured against itself, and nothing measured at all."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from resnet_cuda.bench.device import Device
from resnet_cuda.bench.timing import Effort, measure, ratio

ROUNDS = {"cuda": 200, "cpu": 800, "dry-run": 2}
MARGIN = 0.03

# The convolution: images, channels, pixels. On the CPU it takes about a millisecond and runs on one thread: one that is
# interrupted by other processes in most of its calls, or whose threads wait for each other across such interruptions,
# takes now one time, now several, and medians of such samples stray by tens of percent whatever measures them (the
# paired ratio does not). 800 rounds then hold 3% with room to spare on two cores that others use, too.
_SIZES = {"cuda": (64, 256, 56), "cpu": (1, 64, 40), "dry-run": (1, 8, 8)}


def self_comparison(device: Device) -> dict[str, Any]:
    """One convolution as two candidates, "A" and "B".

    Returns `ratio_of_medians` and `paired_ratio` of A over B, which are 1 where the harness is fair, `holds` (both
    within `margin`), `rounds`, `median_us` and `spread` (interquartile range over median) of each, `seconds`, and
    `nothing_us`: what a function that does nothing seems to take, which no time can be told below.
    """
    batch, channels, pixels = _SIZES[device.kind]
    x, weight = (
        torch.randn(size, device=device.torch_device).contiguous(memory_format=torch.channels_last)
        for size in ((batch, channels, pixels, pixels), (channels, channels, 3, 3))
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare_with_itself(
            device, lambda: torch.nn.functional.conv2d(x, weight, padding=1), ROUNDS[device.kind]
        )
    finally:
        torch.set_num_threads(threads)


def compare_with_itself(
    device: Device, function: Callable[[], object], rounds: int
) -> dict[str, Any]:
    """The comparison of any function with itself; see `self_comparison`."""
    start = device.now()
    effort = Effort(seconds=float("inf"), min_rounds=rounds, max_rounds=rounds)
    timings = measure(device, {"A": function, "B": function}, effort)
    a, b = timings["A"], timings["B"]
    unpaired, paired = a.median / b.median, ratio(a, b)
    few = Effort(seconds=0.0, min_rounds=5)
    nothing = measure(device, {"nothing": lambda: None}, few)["nothing"]
    return {
        "ratio_of_medians": unpaired,
        "paired_ratio": paired,
        "margin": MARGIN,
        "holds": abs(unpaired - 1) <= MARGIN and abs(paired - 1) <= MARGIN,
        "rounds": rounds,
        "median_us": [a.median * 1e6, b.median * 1e6],
        "spread": [a.spread, b.spread],
        "nothing_us": statistics.median(nothing.samples) * 1e6,
        "seconds": device.now() - start,
    }
