"""Two reports of one device, the new against the old: what of ours has become slower, wrong, or has gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from resnet_cuda.bench.workload import FAILED, OK, SKIPPED, WRONG

MARGIN = 0.10
Key = tuple[str, str, str, str, str]
_KEY = ("level", "workload", "pass_name", "dtype", "candidate")


class Finding(NamedTuple):
    """`kind` is "slower", "status" or "vanished"; `text` explains with figures."""

    key: Key
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{' '.join(self.key)}: {self.text}"


def regressions(
    new_report: dict[str, Any], old_report: dict[str, Any], margin: float = MARGIN
) -> list[Finding]:
    """What of ours got worse by more than `margin` (0.1: a tenth).

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
    new, old = _ours(new_report), _ours(old_report)
    complete = bool(new_report.get("finished")) and _scope(new_report) == _scope(old_report)
    findings: list[Finding] = []
    for key, before in old.items():
        if before["status"] != OK:
            continue
        after = new.get(key)
        if after is None:
            if complete:
                findings.append(Finding(key, "vanished", "was measured, is not in the new report"))
        elif after["status"] == OK:
            findings += _slower(key, after, before, new_report, old_report, margin)
        elif after["status"] in (WRONG, FAILED):
            text = f"was ok, is {after['status']}: {after['message']}"
            findings.append(Finding(key, "status", text))
        elif after["status"] != SKIPPED:
            text = f"was ok, is {after['status']}: {after['message']}"
            findings.append(Finding(key, "vanished", text))
    return findings


def _slower(
    key: Key,
    after: dict[str, Any],
    before: dict[str, Any],
    new_report: dict[str, Any],
    old_report: dict[str, Any],
    margin: float,
) -> Iterator[Finding]:
    for peer, was in before["versus"].items():
        now = after["versus"].get(peer)
        if not was or now is None or now >= was * (1 - margin):
            continue
        ours = f"{_us(before)} -> {_us(after)}"
        theirs = f"{_us(_row(old_report, key, peer))} -> {_us(_row(new_report, key, peer))}"
        text = (
            f"{was:.3f} -> {now:.3f} times as fast as {peer}, {1 - now / was:.0%} less "
            f"(margin {margin:.0%}); medians: ours {ours}, {peer} {theirs}"
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


def _ours(report: dict[str, Any]) -> dict[Key, dict[str, Any]]:
    return {_key(row): row for row in report["results"] if row["ours"]}


def _key(row: dict[str, Any]) -> Key:
    level, workload, pass_name, dtype, candidate = (row[name] for name in _KEY)
    return level, workload, pass_name, dtype, candidate


def _row(report: dict[str, Any], key: Key, peer: str) -> dict[str, Any] | None:
    wanted = (*key[:-1], peer)
    return next((row for row in report["results"] if _key(row) == wanted), None)


def _us(row: dict[str, Any] | None) -> str:
    return f"{row['timing']['median_us']:.1f} us" if row and row["timing"] else "unknown"
