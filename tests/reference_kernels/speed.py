"""How fast kernels run on the emulator in plain mode: python -m tests.reference_kernels.speed

Multiply-adds of the problem (not of its padding) per second on two host threads, the best of some runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from tests.reference_kernels import problems
from tests.reference_kernels.launch import launch, open_library
from tests.reference_kernels.policies import EARLY, LATE, completing
from tests.reference_kernels.problems import BFLOAT16, FLOAT32, Conv, Problem

LAYER = Conv(2, 28, 28, 128, 128)  # a 3x3 convolution of ResNet-50
LAYER_PRODUCTS = 2 * 28 * 28 * 128 * 9 * 128
SIZE = (512, 512, 2304)  # as deep as a 3x3 convolution of 256 channels
PRODUCTS = 512 * 512 * 2304


def measured() -> list[tuple[Problem, int]]:
    return [
        (problems.gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, *SIZE), PRODUCTS),
        (problems.conv_fprop("ampere_conv_bfloat16", BFLOAT16, LAYER), LAYER_PRODUCTS),
        (problems.gemm("hopper_gemm_bfloat16_n128", BFLOAT16, BFLOAT16, *SIZE), PRODUCTS),
        (problems.gemm("hopper_gemm_bfloat16_n256", BFLOAT16, FLOAT32, *SIZE), PRODUCTS),
        (problems.gemm_rs(BFLOAT16, *SIZE), PRODUCTS),
        (problems.gemm_cluster(*SIZE), PRODUCTS),
        (problems.conv_fprop("hopper_conv_fprop_bfloat16", BFLOAT16, LAYER), LAYER_PRODUCTS),
        (problems.conv_dgrad(BFLOAT16, LAYER), LAYER_PRODUCTS),
        (problems.conv_wgrad(BFLOAT16, LAYER, 2), LAYER_PRODUCTS),
    ]


def best_seconds(problem: Problem, runs: int) -> float:
    library = open_library(problem.library, "emulated")
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        launch(library, problem.kernel, problem.buffers, problem.numbers)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--early", action="store_true", help="asynchronous operations complete at once"
    )
    options = parser.parse_args(arguments)
    policy = completing(EARLY if options.early else LATE)
    for problem, products in measured():
        open_library(problem.library, "emulated").set_options(
            workers=options.threads, check=0, **policy.options()
        )
        seconds = best_seconds(problem, options.runs)
        print(f"{problem.name:60} {seconds * 1e3:8.1f} ms {products / seconds / 1e9:7.2f} GMAC/s")


if __name__ == "__main__":
    main()
