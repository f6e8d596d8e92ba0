"""The entry point of a stage's process: python -m benchmarks.hardware.child MODULE STAGE --device cuda|dry-run"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks.hardware.protocol import Check, run_checks

if TYPE_CHECKING:
    from resnet_cuda.bench.ceilings import Ceilings

# Modules of this folder with `run(context) -> exit status`.
MODULES = (
    "build",
    "device_facts",
    "probes",
    "reference_kernels",
    "correctness",
    "safety",
    "measure",
    "gates",
)
# They come before the extension is known to load, or while it is replaced.
_WITHOUT_EXTENSION = ("build", "device_facts")


@dataclass(frozen=True)
class Context:
    """What a stage's process is told.

    Args:
        stage: its name.
        device: "cuda" or "dry-run".
        ops, passes: names of those that matter; None: all.
        skip: how many checks or workloads earlier processes of the stage made.
        seconds: from the process's start until it is stopped.
        rebuild: whether to compile what is there already.
        ceilings: measured by an earlier stage.
        started: when the process did, on time.monotonic's clock.
    """

    stage: str
    device: str
    ops: frozenset[str] | None = None
    passes: frozenset[str] | None = None
    skip: int = 0
    seconds: float = 600.0
    rebuild: bool = False
    ceilings: Ceilings | None = None
    started: float = field(default_factory=time.monotonic)

    @property
    def dry(self) -> bool:
        return self.device == "dry-run"

    @property
    def tensors(self) -> str:
        """Where tensors live."""
        return "cpu" if self.dry else "cuda"

    def left(self) -> float:
        """Seconds until the process is stopped; importing torch and starting the GPU have taken some."""
        return self.seconds - (time.monotonic() - self.started)

    def wants(self, op: str) -> bool:
        return self.ops is None or op in self.ops

    def backend(self) -> AbstractContextManager[None]:
        """Selects the kernels under test: on the GPU, or in a dry run on the emulator."""
        import resnet_cuda

        return resnet_cuda.use_backend("emulated" if self.dry else "cuda")

    def run_checks(self, checks: Iterable[Check]) -> int:
        return run_checks(checks, self.skip, lambda: not self.dry and gpu_is_spoiled())


def gpu_is_spoiled() -> bool:
    """Whether an earlier fault makes further calls fail: CUDA's errors stay until the process ends, and a capture that
    failed may keep torch from freeing memory and from making random numbers."""
    import torch

    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.rand(1, device="cuda")
        return torch.ones(1, device="cuda").add(1).item() != 2
    except RuntimeError:
        return True


def parse(arguments: list[str] | None = None) -> tuple[str, Context]:
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", choices=MODULES)
    parser.add_argument("stage")
    parser.add_argument("--device", choices=("cuda", "dry-run"), required=True)
    parser.add_argument("--ops", nargs="*")
    parser.add_argument("--passes", nargs="*")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rebuild", action="store_true")
    parser.add_argument("--ceilings", type=json.loads, metavar="JSON")
    options = vars(parser.parse_args(arguments))
    module = options.pop("module")
    for name in ("ops", "passes"):
        options[name] = None if options[name] is None else frozenset(options[name])
    if module in _WITHOUT_EXTENSION:
        sys.modules["resnet_cuda._C"] = None  # type: ignore[assignment]
    if options["ceilings"]:
        from resnet_cuda.bench.ceilings import Ceilings

        options["ceilings"] = Ceilings(**options["ceilings"])
    return module, Context(**options, started=started)


def main() -> int:
    module, context = parse()
    status: int = importlib.import_module(f"benchmarks.hardware.{module}").run(context)
    return status


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the driver's and torch's farewell has no part in what was found
