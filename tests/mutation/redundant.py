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


REDUNDANT: tuple[Redundant, ...] = ()


def reason_of(mutant: Mutant) -> str | None:
    for entry in REDUNDANT:
        if (entry.file, entry.statement, entry.occurrence) == (
            mutant.file,
            mutant.statement,
            mutant.occurrence,
        ):
            return entry.reason
    return None
