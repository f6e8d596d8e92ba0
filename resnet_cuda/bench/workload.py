"""What is measured: a workload is one computation, its candidates are the ways to do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from resnet_cuda.bench.ceilings import Part

LEVELS = ("kernel", "op", "block", "model", "overhead")
OURS = "resnet_cuda"

# What became of a candidate.
OK = "ok"
WRONG = "wrong"  # its result broke the tolerance rule, so its time does not count
FAILED = "failed"  # it raised
ABSENT = "absent"  # a package or a feature that it needs is not here
SKIPPED = "skipped"  # no time was left


class Absent(Exception):
    """Raised by a candidate's `prepare` where something it needs is not installed or not possible here."""


@dataclass(frozen=True)
class Candidate:
    """One way to do a workload.

    `prepare` makes inputs and modules, compiles, captures, and returns the function to be timed, which returns what
    it computed (a tensor or a tuple of tensors; None if there is nothing to compare). It raises Absent where the
    candidate is not possible here.
    """

    name: str
    prepare: Callable[[], Callable[[], object]]
    ours: bool = False
    preparing_seconds: float = 0.0  # expected, for budgets; compilers take minutes


@dataclass
class Workload:
    """One computation.

    Args:
        level: one of LEVELS.
        name: what is computed, with sizes, e.g. "n256-64x56x56-k64-3x3-p1".
        pass_name: "inference", "forward", "training step", or a kernel pass as in csrc ("conv_fprop").
        flops: floating-point operations of one call (2 per multiply-add), 0 if it is not about arithmetic.
        bytes: the least that one call must move: every operand once.
        candidates: ours first; the peers after it.
        check: takes {candidate's name: its output} of all candidates that ran; returns {name: complaint} for those
            whose output is wrong.
        images: that one call processes, for throughput; 0 where that means nothing.
        count: how often the network has this layer.
        parts: its floor is the sum of its parts' floors; default: the whole as one perfect kernel.
        memory: bytes that it needs at least, 0 if unknown: without them it is not tried.
        smaller: makes the same with a smaller batch, for devices with too little memory; None, or returns None, if
            there is none.
        label: what this comparison is for, where one computation has several with different peers: "sweep",
            "compile"; "" is the one with all peers that take turns without ado.
        host_time: the time is until the call returns, which is what the host needs to start the work.
        facts: more for the report, e.g. {"network": "resnet50"}.
    """

    level: str
    name: str
    pass_name: str
    dtype: torch.dtype
    flops: int
    bytes: int
    candidates: Sequence[Candidate]
    check: Callable[[dict[str, object]], dict[str, str]] | None = None
    images: int = 0
    count: int = 1
    parts: Sequence[Part] = ()
    memory: int = 0
    smaller: Callable[[], Workload | None] | None = None
    label: str = ""
    host_time: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = self.parts or [(self.flops, self.bytes)]

    @property
    def title(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return title(self.level, self.name, self.pass_name, dtype, self.label)


def title(level: str, workload: str, pass_name: str, dtype: str, label: str = "") -> str:
    """What a comparison is called wherever it stands alone. A level that could not be made has no pass or dtype."""
    return " ".join(filter(None, (level, labelled(workload, label), pass_name, dtype)))


def labelled(workload: str, label: str) -> str:
    return f"{workload} [{label}]" if label else workload


@dataclass
class Result:
    """One candidate of one workload, as reports keep it. Times are microseconds per call."""

    level: str
    workload: str
    pass_name: str
    dtype: str
    candidate: str
    ours: bool
    status: str
    message: str = ""
    label: str = ""  # of the comparison, see Workload
    timing: dict[str, Any] | None = None
    flops: int = 0
    bytes: int = 0
    images: int = 0
    count: int = 1
    peak_memory: int | None = None  # bytes of this candidate alone, at the peak of one call
    first_call_seconds: float | None = None
    floor_us: float | None = None  # by the ceilings measured in the same run
    memory_share: float | None = None  # of the floor: what its traffic sets, not its arithmetic
    versus: dict[str, float] = field(default_factory=dict)  # {peer: its time over ours}
    versus_quartiles: dict[str, tuple[float, float]] = field(default_factory=dict)  # of the rounds
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def median_us(self) -> float | None:
        return self.timing["median_us"] if self.timing else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def result(workload: Workload, candidate: Candidate, status: str, message: str = "") -> Result:
    """A result without figures."""
    return Result(
        level=workload.level,
        workload=workload.name,
        pass_name=workload.pass_name,
        dtype=str(workload.dtype).removeprefix("torch."),
        candidate=candidate.name,
        ours=candidate.ours,
        status=status,
        message=message,
        label=workload.label,
        flops=workload.flops,
        bytes=workload.bytes,
        images=workload.images,
        count=workload.count,
        facts=dict(workload.facts),
    )
