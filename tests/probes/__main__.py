"""Runs all probes on every backend at hand: python -m tests.probes

Each wrapper of csrc/ptx has a kernel around it and the output that it must give, in golden.npz. A backend is the
emulator, plain or checked, under several orders of threads and timings; or a GPU. Exit status 1 on a mismatch.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from tests.device_library.library import BACKENDS
from tests.probes import workers
from tests.probes.registry import PROBES
from tests.probes.runner import Result


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.probes", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of probes' names; all without")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all at hand")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write the results there")
    parser.add_argument(
        "--limit", type=float, default=20.0, metavar="SECONDS", help="after which a probe hangs"
    )
    parser.add_argument("--list", action="store_true", help="print the probes' names only")
    parser.add_argument("--worker", choices=BACKENDS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.worker:
        workers.work(options.worker, options.names)
        return 0
    names = [
        probe.name
        for probe in PROBES
        if not options.names or any(part in probe.name for part in options.names)
    ]
    if options.list:
        print("\n".join(names))
        return 0
    if not names:
        print(f"no probe's name contains {' or '.join(options.names)}; --list prints them all")
        return 2
    report: dict[str, dict] = {}
    wrong = 0
    for backend in options.backend or BACKENDS:
        about: dict = {}
        results: list[Result] = []
        for line in workers.run(backend, names, options.limit):
            if isinstance(line, dict):
                about = line
                print(f"\n{backend}: {line.get('device') or 'not at hand: ' + line['unavailable']}")
                continue
            results.append(line)
            print(
                f"  {line.status:8}{line.probe:44}{line.seconds:8.3f} s  {line.message}", flush=True
            )
        report[backend] = {**about, "probes": [asdict(result) for result in results]}
        counts = {
            status: sum(result.status == status for result in results)
            for status in ("passed", "failed", "hung", "skipped")
        }
        if results:
            print(f"  {', '.join(f'{n} {status}' for status, n in counts.items() if n)}")
        wrong += counts["failed"] + counts["hung"]
        if options.backend and not results:
            wrong += 1  # asked for by name, and not there
    if options.report:
        options.report.write_text(json.dumps(report, indent=1) + "\n")
    if not any(held["probes"] for held in report.values()):
        print("no backend is at hand: build the CMake target probes")
        return 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
