"""What the harness itself is worth: the same function measured against itself, and nothing measured at all."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from resnet_cuda.bench.device import Device
from resnet_cuda.bench.timing import Effort, measure, ratio

# On two noisy cores a single run of some milliseconds strays by several percent; the median over this many rounds
# by well below one, so that the comparison holds without trying again.
ROUNDS = 200
MARGIN = 0.03


def self_comparison(device: Device) -> dict[str, Any]:
    """One function, a convolution of about a millisecond or more, as two candidates "A" and "B".

    Returns `ratio_of_medians` and `paired_ratio` of A over B, which are 1 where the harness is fair, `holds` (both
    within `margin`), `rounds`, `median_us` and `spread` (interquartile range over median) of each, `seconds`, and
    `nothing_us`: what a function that does nothing seems to take, which no time can be told below.
    """
    batch, channels, pixels = {"cuda": (64, 256, 56), "cpu": (2, 64, 56), "dry-run": (1, 8, 8)}[
        device.kind
    ]
    x, weight = (
        torch.randn(size, device=device.torch_device).contiguous(memory_format=torch.channels_last)
        for size in ((batch, channels, pixels, pixels), (channels, channels, 3, 3))
    )
    rounds = 2 if device.kind == "dry-run" else ROUNDS

    def convolution() -> torch.Tensor:
        return torch.nn.functional.conv2d(x, weight, padding=1)

    return compare_with_itself(device, convolution, rounds)


def compare_with_itself(device: Device, function: Any, rounds: int) -> dict[str, Any]:
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
