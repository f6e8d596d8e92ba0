"""Right kernels under many random schedules in checked mode: python -m tests.reference_kernels.soak --schedules 200

Every reference kernel and every shipped kernel must give the same bits under each, and no report. A failure
names the policy, which reproduces it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.device_library.library import DeviceError
from tests.reference_kernels.launch import launch, open_library
from tests.reference_kernels.policies import Policy, random_policy
from tests.reference_kernels.problems import all_problems

Run = Callable[[Policy], Sequence[Tensor]]


def reference_kernels() -> Iterator[tuple[str, Run]]:
    problems = all_problems()
    libraries = {
        name: open_library(name, "checked") for name in {problem.library for problem in problems}
    }
    for problem in problems:

        def run(policy: Policy, problem=problem) -> list[Tensor]:
            library = libraries[problem.library]
            library.set_options(check=1, **policy.options())
            outputs = launch(library, problem.kernel, problem.buffers, problem.numbers)
            if complaint := problem.complaint(outputs):
                raise DeviceError(complaint)
            return outputs

        yield problem.name, run


def shipped_kernels() -> Iterator[tuple[str, Run]]:
    """Every pass in float32, and those of Hopper in 16 bits and in TF32, where each block computes several tiles."""
    from resnet_cuda.testing.emulated import COMPLETIONS, SCHEDULES, emulated
    from tests.kernels.every_pass import every_pass, outputs

    sys.path.append(str(Path(__file__).parents[1] / "kernels"))  # its modules name each other so
    from tests.kernels.hopper_passes import hopper_passes
    from tests.kernels.test_hopper_tf32_kernels import SEVERAL_TILES, fusions

    passes = [(name, pass_, False) for name, pass_ in every_pass(torch.float32)]
    passes += [(f"hopper {name}", pass_, False) for name, pass_ in hopper_passes().items()]
    in_tf32 = fusions(SEVERAL_TILES)
    passes += [(f"hopper TF32, {name}", pass_, True) for name, pass_ in in_tf32.items()]
    for name, pass_, allow_tf32 in passes:

        def run(policy: Policy, pass_=pass_, allow_tf32=allow_tf32) -> Sequence[Tensor]:
            with emulated(
                checked=True,
                allow_tf32=allow_tf32,
                schedule=SCHEDULES[policy.schedule],
                seed=policy.seed,
                cp_async=COMPLETIONS[policy.cp_async],
                tma=COMPLETIONS[policy.tma],
                wgmma=COMPLETIONS[policy.wgmma],
                multiprocessors=2,
            ):
                return outputs(pass_)

        yield f"shipped: {name}", run


def soak(kernels: list[tuple[str, Run]], policies: Sequence[Policy]) -> list[str]:
    """The complaints; the first policy's results are what the others are compared with."""
    complaints = []
    for name, run in kernels:
        first: Sequence[Tensor] | None = None
        for policy in policies:
            try:
                outputs = run(policy)
            except RuntimeError as error:
                complaints.append(f"{name} under {policy}: {error}")
                continue
            first = first or outputs
            if not all(equal_bits(a, b) for a, b in zip(outputs, first, strict=True)):
                complaints.append(f"{name} under {policy}: the result differs from the first")
    return complaints


def equal_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(
        a.contiguous().flatten().view(torch.uint8), b.contiguous().flatten().view(torch.uint8)
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of the first schedule")
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    options = parser.parse_args(arguments)

    kernels = [
        kernel for kernel in (*reference_kernels(), *shipped_kernels()) if options.only in kernel[0]
    ]
    policies = [random_policy(options.seed + i) for i in range(options.schedules)]
    complaints = 0
    for kernel in kernels:
        start = time.monotonic()
        found = soak([kernel], policies)
        complaints += len(found)
        print(f"{kernel[0]}: {len(found)} complaints, {time.monotonic() - start:.1f} s", flush=True)
        print(*found[:3], sep="\n", end="\n" if found else "")
    print(f"{len(kernels)} kernels under {len(policies)} schedules: {complaints} complaints")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
