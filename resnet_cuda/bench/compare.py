"""Two reports of one device, the new against the old: what of ours has become slower, wrong, or has gone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from resnet_cuda.bench.results import ERRORS_OF_NOISE, identity, ratio_error
from resnet_cuda.bench.workload import FAILED, OK, SKIPPED, WRONG, title

MARGIN = 0.10
Key = tuple[str, str, str, str, str, str]


class Finding(NamedTuple):
    """`key`: of the comparison, and the candidate. `kind` is "slower", "status" or "vanished"; `text` explains with
    figures."""

    key: Key
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{title(*self.key[:-1])} {self.key[-1]}: {self.text}"


def regressions(
    new_report: dict[str, Any], old_report: dict[str, Any], margin: float = MARGIN
) -> list[Finding]:
    """What of ours got worse by more than `margin` (0.1: a tenth) and the noise of the two measurements.

    Speed is judged by ratios to the same peer measured in turn in the same run, never by times: those of two runs
    differ by what else the machine did. What the new run had no time for, or was not asked for (its plan
    differs), is not held against it.

    Raises:
        ValueError: the reports are of different devices, or one is of none.
    """
    devices = [_device(report) for report in (new_report, old_report)]
    if devices[0] != devices[1]:
        raise ValueError(
            f"the reports' devices differ: new {_named(devices[0])}, old {_named(devices[1])}; "
            "accepted: two reports of the same kind of device with the same name"
        )
    new, old = _by_key(new_report), _by_key(old_report)
    complete = bool(new_report.get("finished")) and _scope(new_report) == _scope(old_report)
    findings: list[Finding] = []
    for key, before in old.items():
        if not before["ours"] or before["status"] != OK:
            continue
        after = new.get(key)
        if after is None:
            if complete:
                findings.append(Finding(key, "vanished", "was measured, is not in the new report"))
        elif after["status"] == OK:
            findings += _slower(key, new, old, margin)
        elif after["status"] in (WRONG, FAILED):
            text = f"was ok, is {after['status']}: {after['message']}"
            findings.append(Finding(key, "status", text))
        elif after["status"] != SKIPPED:
            text = f"was ok, is {after['status']}: {after['message']}"
            findings.append(Finding(key, "vanished", text))
    return findings


Rows = dict[Key, dict[str, Any]]


def _slower(key: Key, new: Rows, old: Rows, margin: float) -> Iterator[Finding]:
    before, after = old[key], new[key]
    for peer, was in before["versus"].items():
        now = after["versus"].get(peer)
        if not was or now is None:
            continue
        peers = [rows.get((*key[:-1], peer)) for rows in (old, new)]
        lost = 1 - now / was
        errors = [ratio_error(row, p) for row, p in zip((before, after), peers, strict=True) if p]
        noise = ERRORS_OF_NOISE * math.hypot(*errors)
        if lost <= margin + noise:
            continue
        text = (
            f"{was:.3f} -> {now:.3f} times as fast as {peer}, {lost:.0%} less "
            f"(margin {margin:.0%}, noise {noise:.1%}); medians: ours {_us(before)} -> {_us(after)}, "
            f"{peer} {_us(peers[0])} -> {_us(peers[1])}"
        )
        yield Finding(key, "slower", text)


def _device(report: dict[str, Any]) -> tuple[str | None, str | None]:
    environment = report.get("environment", {})
    return environment.get("kind"), environment.get("name")


def _scope(report: dict[str, Any]) -> list[dict[str, Any]]:
    """What the report's plans cover."""
    plans = report.get("plans", [])
    return [{name: plan[name] for name in plan if name != "effort"} for plan in plans]


def _named(device: tuple[str | None, str | None]) -> str:
    return f"{device[1]!r} ({device[0]})"


def _by_key(report: dict[str, Any]) -> Rows:
    """Of what was measured twice, the later one."""
    return {(*identity(row), row["candidate"]): row for row in report["results"]}


def _us(row: dict[str, Any] | None) -> str:
    return f"{row['timing']['median_us']:.1f} us" if row and row["timing"] else "unknown"
