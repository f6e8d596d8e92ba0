"""What a stage's process tells the conductor: one line for each addition to the report, `@@{"what": value}`.

Kinds: "result", "note" and "section" as `resnet_cuda.bench.report.Report` announces them, "begin" (a check's name)
before each check and "check" (its row) after it, "progress" (its title) before each workload. Every other line is log.
Needs no torch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

MARK = "@@"
OK, FAILED, SKIPPED = "ok", "failed", "skipped"
RESTART = (
    75  # exit status of a stage whose process is spoiled: the remaining checks want a fresh one
)
_MAX_MESSAGE = 500


class Skip(Exception):
    """Raised by a check that cannot be made here; the message says why."""


class Check(NamedTuple):
    """`run` returns a remark ("" if there is none), and raises Skip or whatever is wrong."""

    name: str
    run: Callable[[], str | None]


@dataclass
class Row:
    """What became of a check. `status` is OK, FAILED or SKIPPED."""

    name: str
    status: str
    message: str = ""
    seconds: float = 0.0
    stage: str = ""  # filled in by the conductor


def say(what: str, value: Any) -> None:
    print(MARK + json.dumps({what: value}, default=str), flush=True)


def say_row(row: Row) -> None:
    say("check", asdict(row))


def heard(line: str) -> tuple[str, Any] | None:
    """(what, value) of a line that a stage printed, or None for log. Something may stand before the mark: libraries
    print without ending their lines."""
    _, mark, text = line.partition(MARK + "{")
    if not mark:
        return None
    try:
        ((what, value),) = json.loads("{" + text).items()
    except (ValueError, AttributeError):
        return None
    return what, value


def run_checks(checks: Iterable[Check], skip: int, is_spoiled: Callable[[], bool]) -> int:
    """Makes all checks but the first `skip`; returns the process's exit status.

    A failure does not stop the others, unless `is_spoiled` says that nothing can follow in this process.
    """
    for index, check in enumerate(checks):
        if index < skip:
            continue
        say("begin", check.name)
        row = run_check(check)
        say_row(row)
        if row.status == FAILED and is_spoiled():
            return RESTART
    return 0


def run_check(check: Check) -> Row:
    start = time.perf_counter()
    try:
        status, message = OK, check.run() or ""
    except Skip as reason:
        status, message = SKIPPED, str(reason)
    except Exception as error:  # whatever a kernel or torch raises is the finding
        status = FAILED
        message = str(error) if isinstance(error, AssertionError) else ""
        message = message or f"{type(error).__name__}: {error}"
    return Row(check.name, status, _shortened(message), round(time.perf_counter() - start, 3))


def _shortened(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else message[: _MAX_MESSAGE - 4] + " ..."
