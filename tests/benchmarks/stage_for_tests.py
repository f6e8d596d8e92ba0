"""Stages that go wrong, for the conductor's tests: python stage_for_tests.py WHAT NAME --seconds S --skip N ..."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time

from benchmarks.hardware.protocol import RESTART, Check, Skip, run_checks, say


def end_by(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def wrong() -> None:
    raise AssertionError("3 of 4 values are wrong")


def skip() -> None:
    raise Skip("one GPU")


ROW = {
    "level": "op",
    "workload": "add_relu",
    "pass_name": "inference",
    "dtype": "bfloat16",
    "candidate": "resnet_cuda",
    "ours": True,
    "message": "",
    "timing": None,
}
GOOD = Check("good", lambda: "")
CHECKS = {
    "good": [GOOD, Check("good too", lambda: "bitwise")],
    "wrong": [GOOD, Check("bad", wrong), Check("skipped", skip), GOOD],
    "killed": [GOOD, Check("bad", lambda: end_by(signal.SIGKILL)), GOOD],
    "segfault": [GOOD, Check("bad", lambda: end_by(signal.SIGSEGV)), GOOD],
    "hangs": [GOOD, Check("bad", lambda: time.sleep(600)), GOOD],
    "spoils": [GOOD, Check("bad", wrong), GOOD],
    "always dies": [Check(f"bad {i}", lambda: end_by(signal.SIGKILL)) for i in range(20)],
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("what")
    parser.add_argument("name")
    parser.add_argument("--skip", type=int, default=0)
    options, _ = parser.parse_known_args()
    what = options.what
    if what == "raises":
        raise RuntimeError(f"no such thing in {os.getcwd()}/secret")
    if what == "silent":
        time.sleep(600)
    if what == "starts another":  # in a session of its own, and holds on to the pipe
        sleeper = subprocess.Popen(["sleep", "600"], start_new_session=True)
        say("note", f"pid {sleeper.pid}")
        return 0
    if what == "chatters":
        for _ in range(60):
            print("x" * 100_000)
        return 0
    if what in ("segfault in a workload", "lost in a workload"):
        for number in range(options.skip, 4):
            say("progress", f"w{number}")
            if number == 1 and what == "lost in a workload":
                return RESTART
            if number == 1:
                end_by(signal.SIGSEGV)
            say("result", {**ROW, "workload": f"w{number}", "status": "ok"})
        return 0
    if what == "measures":
        say("result", {**ROW, "status": "ok"})
        sys.stdout.write("unfinished line ")
        say("result", {**ROW, "status": "wrong"})
        return 0
    return run_checks(CHECKS[what], options.skip, lambda: what == "spoils")


if __name__ == "__main__":
    sys.exit(main())
