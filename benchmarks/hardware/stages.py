"""The stages of a hardware run, in the order of what is worth most. Needs no torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

_CHILD = (sys.executable, "-u", "-m", "benchmarks.hardware.child")


@dataclass(frozen=True)
class Stage:
    """Args:
    limit: seconds after which it is stopped; it gets less where less is left.
    command: how its process starts; the conductor adds the stage's name and options.
    section: of the report, for its checks; they decide whether correctness held. None: it has none.
    counted: under which name the report's section "probes" counts its checks, too; "" not.
    needs: which parts of the section "build" must be there, "extension" and "libraries".
    """

    name: str
    about: str
    limit: float
    command: tuple[str, ...]
    section: str | None = None
    counted: bool = False
    needs: tuple[str, ...] = ()


def _own(module: str) -> tuple[str, ...]:
    return (*_CHILD, module)


_EXTENSION, _LIBRARIES = ("extension",), ("libraries",)

STAGES = (
    Stage("device", "environment, ceilings, peers at hand", 120, _own("device_facts")),
    Stage("build", "compiles what is missing or does not load", 240, _own("build")),
    Stage(
        "probes",
        "each PTX wrapper against its golden vectors",
        60,
        _own("probes"),
        "correctness",
        counted=True,
        needs=_LIBRARIES,
    ),
    Stage(
        "reference_kernels",
        "GEMMs and convolutions of each generation, the first kernel",
        45,
        _own("reference_kernels"),
        "correctness",
        needs=_LIBRARIES,
    ),
    Stage(
        "correctness",
        "every op: fp64 rule in four dtypes, gradcheck, same bits twice, against the emulator, ResNet-50's layers",
        120,
        _own("correctness"),
        "correctness",
        needs=_EXTENSION,
    ),
    Stage(
        "safety",
        "streams, devices, CUDA graphs, synchronisation, memory, threads, errors",
        60,
        _own("safety"),
        "safety",
        needs=_EXTENSION,
    ),
    Stage("gates", "what the Hopper kernels are to reach", 45, _own("gates")),
    Stage("kernels", "every kernel pass of ResNet's layers", 75, _own("measure")),
    Stage("models", "whole networks against eager peers", 100, _own("measure")),
    Stage("blocks", "residual blocks", 40, _own("measure")),
    Stage("sweep", "ResNet-18 and ResNet-50 from 1 image to 512", 50, _own("measure")),
    Stage("ops", "the public ops", 50, _own("measure")),
    Stage("overhead", "what a call costs the host", 20, _own("measure")),
    Stage("training_step", "where a training step's time goes", 40, _own("measure")),
    Stage("compile", "networks against torch.compile", 120, _own("measure")),
    Stage("max_autotune", "networks against max-autotune", 600, _own("measure")),
)
