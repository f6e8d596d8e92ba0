"""ResNet-50 on the CPU: `fuse(torchvision model)` against the same model in torch eager, as ratios of one run.

Batch 4, 224x224, channels_last, two threads. Eager and fused steps are interleaved, so that a slow moment of
the machine hits both; the ratio is that of the median times. Targets: inference at least 1.25x (fp32) and
1.7x (bf16) faster, a training step at most 1.1x eager's time.

    python -m benchmarks.bench_cpu_resnet50 [--seconds 20] [--batch 4] [--threads 2]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import resnet_cuda


def plain_resnet50() -> nn.Module:
    """torchvision's ResNet-50 where it is installed, else this package's plain twin (the same layers)."""
    try:
        from torchvision.models import resnet50
    except (ImportError, RuntimeError):
        return resnet_cuda.reference.ResNet(resnet_cuda.reference.Bottleneck, [3, 4, 6, 3])
    return resnet50()


def interleaved(
    first: Callable[[], object], second: Callable[[], object], seconds: float
) -> tuple[float, float]:
    """Median seconds of both functions, called alternately for about `seconds` after two warm-up rounds."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        first()
        second()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for function, record in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            record.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def inference(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    def step() -> torch.Tensor:
        with torch.no_grad():
            return model(x)

    return step


def training(model: nn.Module, x: torch.Tensor, target: torch.Tensor) -> Callable[[], object]:
    def step() -> None:
        model.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x).float(), target).backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="time per comparison")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    print(
        f"torch {torch.__version__}, {arguments.threads} threads, batch {arguments.batch}, 224x224, channels_last"
    )
    print(f"{'case':18} {'eager ms':>9} {'fused ms':>9} {'eager/fused':>12}  target")
    target = torch.randint(1000, (arguments.batch,))
    for dtype in (torch.float32, torch.bfloat16):
        plain = plain_resnet50().to(dtype).to(memory_format=torch.channels_last)
        fused = resnet_cuda.fuse(plain)
        x = torch.randn(arguments.batch, 3, 224, 224, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        name = str(dtype).removeprefix("torch.")
        for mode, make in (("inference", inference), ("training", training)):
            plain.train(mode == "training")
            fused.train(mode == "training")
            options = (target,) if mode == "training" else ()
            eager_s, fused_s = interleaved(
                make(plain, x, *options), make(fused, x, *options), arguments.seconds
            )
            wanted = (
                ">= 0.91"
                if mode == "training"
                else ">= 1.25"
                if dtype == torch.float32
                else ">= 1.70"
            )
            print(
                f"{mode + ' ' + name:18} {eager_s * 1e3:9.1f} {fused_s * 1e3:9.1f} {eager_s / fused_s:11.2f}x  {wanted}"
            )


if __name__ == "__main__":
    main()
