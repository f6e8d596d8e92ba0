"""The statements whose deletion nothing can notice, and why."""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutation.statements import Mutant


@dataclass(frozen=True)
class Redundant:
    file: str
    statement: str
    reason: str
    occurrence: int = 1


REDUNDANT: tuple[Redundant, ...] = (
    Redundant(
        "csrc/kernels/bottleneck/bottleneck_block.cuh",
        "ptx::wgmma_fence();",
        "the 3x3's first product reads no accumulators, so that it does not matter here what they held; on a GPU it "
        "must not overwrite them while they are still read, and nvcc would insert the fence",
    ),
    Redundant(
        "csrc/kernels/bottleneck/bottleneck_expand_reduce.cuh",
        "ptx::wgmma_fence();",
        "the reduce's accumulators are touched by its own products alone since the expand's first fence, which orders "
        "them by itself; nvcc wants a fence at the head of each group of products and would insert it",
    ),
    Redundant(
        "csrc/kernels/conv/sm90/persistent_gemm.cuh",
        "__syncwarp();",
        "the elect.sync of the next tile waits for the whole warp by itself; here so that its lanes are together again "
        "before they prefetch that tile's rows",
        occurrence=2,
    ),
)


def reason_of(mutant: Mutant) -> str | None:
    for entry in REDUNDANT:
        if (entry.file, entry.statement, entry.occurrence) == (
            mutant.file,
            mutant.statement,
            mutant.occurrence,
        ):
            return entry.reason
    return None
