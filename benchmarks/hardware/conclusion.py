"""What a hardware run has shown: its exit status, and the lines to print in the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.hardware.protocol import FAILED, OK
from benchmarks.hardware.stages import Stage
from resnet_cuda.bench.markdown import sentence
from resnet_cuda.bench.results import complaints, verdicts

_MAX_LISTED = 12

Data = Mapping[str, Any]


def verdict(data: Data, stages: Sequence[Stage]) -> int:
    """The exit status: 0 if correctness held, 1 if not or if not all that decides was checked, 2 without a GPU.

    In a dry run, which tries the plan, every stage decides.
    """
    if data.get("unusable"):
        return 2
    return 1 if complaints(data) or _undecided(data, stages) else 0


def conclusion(data: Data, stages: Sequence[Stage]) -> list[str]:
    if why := data.get("unusable"):
        return [f"No usable GPU: {why}"]
    wrong = complaints(data)
    undecided = _undecided(data, stages)
    if wrong:
        lines = [f"CORRECTNESS DID NOT HOLD, {len(wrong)} complaints:"]
        lines += [f"  {text}" for text in wrong[:_MAX_LISTED]]
        lines += [f"  and {len(wrong) - _MAX_LISTED} more"] if len(wrong) > _MAX_LISTED else []
    elif undecided:
        lines = ["Nothing was found wrong, but not all was checked."]
    elif any(stage.section for stage in stages):
        lines = ["Correctness held."]
    else:
        lines = ["Correctness was not checked."]
    lines += [f"  not checked: {text}" for text in undecided]
    lines += [f"  not all measured: {text}" for text in _broken(data, stages)]
    if (data.get("environment") or {}).get("kind") == "dry-run":
        return [*lines, "A dry run: no figure says anything about a GPU."]
    lines += [f"gate {_told(gate)}" for gate in data.get("gates") or []]
    return lines + [sentence(v).replace("**", "") for v in verdicts(data) if not v.peer]


def _told(gate: Mapping[str, Any]) -> str:
    if gate["us"] is None:
        return f"{gate['gate']}: {gate['verdict']}"
    limit = "unknown" if gate["limit_us"] is None else f"{gate['limit_us']:.1f} us"
    return f"{gate['gate']}: {gate['verdict']}, {gate['us']:.1f} us, limit {limit}"


def _broken(data: Data, stages: Sequence[Stage]) -> list[str]:
    """Stages that do not decide and have failed."""
    if (data.get("environment") or {}).get("kind") == "dry-run":
        return []  # there all decide
    plain = {stage.name for stage in stages if not stage.section}
    return [
        f"{entry['name']}: {entry['message']}"
        for entry in data.get("stages") or []
        if entry["name"] in plain and entry["status"] == FAILED
    ]


def _undecided(data: Data, stages: Sequence[Stage]) -> list[str]:
    """Stages that decide and did not come to a good end."""
    dry = (data.get("environment") or {}).get("kind") == "dry-run"
    entries = {entry["name"]: entry for entry in data.get("stages") or []}
    found = []
    for stage in stages:
        entry = entries.get(stage.name, {"status": "not reached", "message": ""})
        if (stage.section or dry) and entry["status"] != OK:
            found.append(f"{stage.name}: {entry['status']} {entry['message']}".rstrip())
    return found
