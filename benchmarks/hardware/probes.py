"""Stage `probes`: each wrapper of csrc/ptx against its golden vectors (docs/probes.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.hardware.protocol import FAILED, OK, SKIPPED, Row, say_row

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

_SECONDS_OF_ONE = 20.0
_STATUSES = {"passed": OK, "failed": FAILED, "hung": FAILED, "skipped": SKIPPED}


def run(context: Context) -> int:
    from tests.probes import workers
    from tests.probes.registry import PROBES

    backend = "emulated" if context.dry else "cuda"
    for line in workers.run(backend, [probe.name for probe in PROBES], _SECONDS_OF_ONE):
        if isinstance(line, dict):
            if "unavailable" in line:
                raise RuntimeError(line["unavailable"])
            print(f"{backend}: {line['device']}")
            continue
        message = f"hung: {line.message}" if line.status == "hung" else line.message
        say_row(Row(line.probe, _STATUSES[line.status], message, round(line.seconds, 3)))
    return 0
