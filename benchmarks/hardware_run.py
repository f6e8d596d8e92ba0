"""Everything that a GPU can tell about this package, in one command: python benchmarks/hardware_run.py

Checks that the kernels are right, then measures them beside their peers, in the order of what is worth most, until
the time is up. report.json and report.md are written as it goes, so that a run that is cut off still counts.

Exit status: 0 if correctness held; 1 if something was wrong, failed or could not be checked; 2 for arguments that
make no sense, or without a GPU that the kernels can run on.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.hardware import affected  # noqa: E402
from benchmarks.hardware.affected import Selection  # noqa: E402
from benchmarks.hardware.stages import STAGES, Stage  # noqa: E402

_WRAPPING_UP = 12.0  # seconds of the whole for the summary and the pictures
_ALWAYS = ("device", "build")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", default="8", help="for everything (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="default: $OUT, else hardware_report"
    )
    what = parser.add_argument_group("what to run")
    names = [stage.name for stage in STAGES]
    what.add_argument("--only", nargs="+", metavar="STAGE", choices=names, help=", ".join(names))
    what.add_argument(
        "--kernels",
        nargs="+",
        metavar="NAME",
        help="kernels or ops: checks and measures only what they take part in",
    )
    what.add_argument(
        "--since", metavar="REF", help="only what changes since this git revision touch"
    )
    what.add_argument("--build", action="store_true", help="compile also what is there already")
    what.add_argument(
        "--dry-run", action="store_true", help="everything in tiny sizes on the emulator, no GPU"
    )
    what.add_argument("--list", action="store_true", help="print the stages and the kernels' names")
    options = parser.parse_args(arguments)
    try:
        minutes = float(options.minutes)
    except ValueError:
        minutes = 0.0
    if not minutes > 0:
        parser.error(f"--minutes is {options.minutes!r}; accepted: numbers above 0")
    options.minutes = minutes
    if options.kernels and options.since:
        parser.error("--kernels and --since are both given; accepted: one of them")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    started = time.monotonic()
    options = parse(arguments)
    if options.list:
        for stage in STAGES:
            print(f"{stage.name:18} at most {stage.limit:3.0f} s  {stage.about}")
        print(f"\nkernels and ops: {', '.join(affected.names())}")
        return 0
    try:
        selection, reasons = select(options)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    stages = chosen(selection, options.only)
    for reason in reasons:
        print(reason)
    if not any(stage.name not in _ALWAYS for stage in stages) and not options.only:
        print(f"nothing that a GPU runs has changed since {options.since}")
        return 0
    return run(options, selection, stages, started)


def select(options: argparse.Namespace) -> tuple[Selection, list[str]]:
    if options.kernels:
        return affected.by_names(options.kernels), []
    if options.since:
        return affected.since(options.since)
    return Selection(), []


def chosen(selection: Selection, only: Sequence[str] | None) -> list[Stage]:
    """In order. `device` and `build` come with whatever is chosen: the others rest on what they find."""
    return [
        stage
        for stage in STAGES
        if stage.name in _ALWAYS
        or (
            (not only or stage.name in only)
            and (selection.stages is None or stage.name in selection.stages)
        )
    ]


def run(
    options: argparse.Namespace, selection: Selection, stages: Sequence[Stage], started: float
) -> int:
    """`started`: when the command did, on time.monotonic's clock; importing torch takes part of the time, too."""
    if missing := [name for name in ("torch", "numpy") if not importlib.util.find_spec(name)]:
        needed = "accepted: a Python with torch and numpy"
        print(f"this Python {sys.version.split()[0]} has no {' and no '.join(missing)}; {needed}")
        return 2
    # This process only writes down: a binary that does not fit must not end it, and may be replaced meanwhile.
    sys.modules.setdefault("resnet_cuda._C", None)  # type: ignore[arg-type]
    from benchmarks.hardware.conclusion import conclusion, verdict
    from benchmarks.hardware.conductor import Conductor, Log, Options, child_environment
    from benchmarks.hardware.scrub import Scrubber
    from resnet_cuda.bench import plots
    from resnet_cuda.bench.publish import publish
    from resnet_cuda.bench.report import Report

    device = "dry-run" if options.dry_run else "cuda"
    folder = options.out or Path(os.environ.get("OUT") or "hardware_report")
    try:
        report = Report(folder, "hardware_run", {})
        for name in ("report.md", *plots.PICTURES):
            (folder / name).unlink(missing_ok=True)  # of an earlier run
        log_file = (folder / "log.txt").open("w", errors="replace")
    except OSError as error:
        print(f"--out is {folder}: {error.strerror}; accepted: a folder that can be written")
        return 2
    try:
        temporary = Path(tempfile.mkdtemp(prefix="hardware_run_"))
    except OSError as error:
        print(
            f"TMPDIR: {error.strerror}; accepted: a folder for temporary files that can be written"
        )
        return 2
    os.environ.setdefault("MPLCONFIGDIR", str(temporary / "matplotlib"))
    scrub = Scrubber(ROOT, [temporary])
    seconds = max(60 * options.minutes - _WRAPPING_UP, 0.8 * 60 * options.minutes)
    seconds -= time.monotonic() - started
    report.set("command", command_line(options))
    conductor = Conductor(
        stages,
        Options(device, seconds, selection, options.build, child_environment(device, temporary)),
        report,
        Log(log_file),
        scrub,
    )
    try:
        with report.recording():
            conductor.run()
        if conductor.out_of_time:
            report.finish("the time limit")
    except KeyboardInterrupt:
        pass  # the report says so
    finally:
        with suppress(OSError):
            log_file.close()
        remarks = publish(report.data, folder)
        shutil.rmtree(temporary, ignore_errors=True)
    print("\n".join([*conclusion(report.data, stages), *remarks]))
    print(f"{time.monotonic() - started:.0f} s; the report is in {folder}")
    if report.unsaved:
        print(f"report.json is not complete, it could not be written: {report.unsaved}")
        return 1
    return verdict(report.data, stages)


def command_line(options: argparse.Namespace) -> str:
    """What was asked for, without folders."""
    words = ["hardware_run.py", "--minutes", f"{options.minutes:g}"]
    for name in ("only", "kernels"):
        if value := getattr(options, name):
            words += [f"--{name}", *value]
    words += ["--since", options.since] if options.since else []
    words += [f"--{name.replace('_', '-')}" for name in ("build", "dry_run") if vars(options)[name]]
    return " ".join(words)


if __name__ == "__main__":
    sys.exit(main())
