"""Builds one mutant and runs it in a process of its own: it may crash, and must not hang."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.device_library.library import DeviceError, DeviceLibrary
from tests.mutation.programs import PROGRAMS, PROGRAMS_OF_FILE, Program, problems_of
from tests.mutation.statements import FOLDERS, ROOT, Mutant
from tests.reference_kernels.launch import launch
from tests.reference_kernels.policies import (
    EARLY,
    LATE,
    RANDOM,
    REVERSED,
    Policy,
    completing,
    random_policy,
)

# What is said about a fault does not depend on the policy; whether it happens may.
CHECKED_POLICIES = (
    completing(LATE),
    completing(EARLY, REVERSED),
    random_policy(1),
    random_policy(2),
)
PLAIN_POLICIES = (
    completing(LATE),
    completing(LATE, REVERSED),
    completing(EARLY),
    completing(EARLY, REVERSED),
    *(Policy(RANDOM, seed, 2, 2, 2) for seed in range(1, 5)),
)
LIMIT_SECONDS = 60.0
# So few that blocks which stay compute several tiles.
MULTIPROCESSORS = 2


@dataclass(frozen=True)
class Outcome:
    """How a mutant fared. `how`: "reported" (the emulator's message), "wrong" (results, without a
    message), "unnoticed", "crashed" or "hung"; the last two are faults of the emulator."""

    how: str
    message: str = ""

    @property
    def noticed(self) -> bool:
        return self.how in ("reported", "wrong")


@dataclass(frozen=True)
class Trial:
    mutant: Mutant
    checked: Outcome
    plain: Outcome | None
    seconds: float


def try_mutant(mutant: Mutant, with_plain: bool) -> Trial:
    start = time.monotonic()
    checked = _outcome(mutant, "checked", CHECKED_POLICIES)
    plain = _outcome(mutant, "plain", PLAIN_POLICIES) if with_plain else None
    return Trial(mutant, checked, plain, time.monotonic() - start)


def _outcome(mutant: Mutant, variant: str, policies: tuple[Policy, ...]) -> Outcome:
    """The outcome in the first program that does not run as if nothing were missing."""
    outcome = Outcome("unnoticed")
    for name in PROGRAMS_OF_FILE[mutant.file]:
        with tempfile.TemporaryDirectory() as folder:
            library = build(PROGRAMS[name], variant, Path(folder), mutant)
            outcome = _in_child(library, name, variant, policies)
        if outcome.how != "unnoticed":
            break
    return outcome


def build(program: Program, variant: str, folder: Path, mutant: Mutant | None) -> Path:
    """Compiles the program with the mutated file in place of the original; returns its library."""
    overlay = folder / "overlay"
    for directory in (*FOLDERS, "tests/device_library", "tests/mutation"):
        # Includes by relative paths stay inside the overlay.
        for path in (ROOT / directory).rglob("*"):
            if path.suffix in (".cu", ".cuh", ".h"):
                target = overlay / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path)
    if mutant is not None:
        (overlay / mutant.file).unlink()
        (overlay / mutant.file).write_text(mutant.source())
    # A symbolic link is left for its target when includes are resolved by some preprocessors.
    unit = overlay / program.source
    text = unit.read_text()
    unit.unlink()
    unit.write_text(text)

    compiler, flags = _compiler(program, variant)
    compiled, library = folder / "kernels.o", folder / f"{program.name}_{variant}.so"
    includes = f"-I{overlay / 'csrc'}"
    _call(compiler, includes, *flags, "-O1", "-w", "-x", "c++", "-c", unit, "-o", compiled)
    # Linked apart from compiling: an instrumented library has the emulator's runtime, not libtsan.
    runtime = ("-Wl,--whole-archive", _newest("libmutation_runtime.a"), "-Wl,--no-whole-archive")
    _call(compiler, "-shared", compiled, *runtime, "-lpthread", "-ldl", "-o", library)
    return library


def _call(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(map(str, command))}\n{done.stderr}")


def _newest(file: str) -> Path:
    folder = os.environ.get("RNC_TEST_LIB_DIR")
    root = Path(folder) if folder else ROOT / "build"
    found = list(root.glob(f"**/{file}"))
    if not found:
        raise FileNotFoundError(f"{file} is not in {root}: build the CMake target mutation")
    return max(found, key=lambda path: path.stat().st_mtime)


@cache
def _compiler(program: Program, variant: str) -> tuple[str, tuple[str, ...]]:
    """The compiler and its flags for the program's library, as CMake chose them."""
    tree = _newest("libmutation_runtime.a").parent
    while not (tree / "compile_commands.json").exists():
        tree = tree.parent
    stem = Path(program.source).stem
    entries = json.loads((tree / "compile_commands.json").read_text())
    mark = f"{program.library}_{variant}.dir/"
    command = next(
        shlex.split(entry["command"])
        for entry in entries
        if mark in entry.get("output", entry["command"]) and Path(entry["file"]).stem == stem
    )
    # All but what names the input and the output.
    return command[0], tuple(command[1 : command.index("-o")])


def _in_child(library: Path, program: str, variant: str, policies: tuple[Policy, ...]) -> Outcome:
    problems_of(program)  # computed here, once for all children
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            text = json.dumps(_run(library, program, variant, policies))
        except BaseException:
            text = json.dumps(["defective", traceback.format_exc()])
        os.write(writing, text.encode()[:60000])
        os._exit(0)
    os.close(writing)
    return _await(child, reading)


def _await(child: int, reading: int) -> Outcome:
    deadline = time.monotonic() + LIMIT_SECONDS
    with os.fdopen(reading) as pipe:
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome("hung", f"nothing within {LIMIT_SECONDS:.0f} s")
            time.sleep(0.01)
        if os.WIFSIGNALED(status):
            return Outcome("crashed", signal.strsignal(os.WTERMSIG(status)) or "killed")
        outcome = Outcome(*json.loads(pipe.read()))
        if outcome.how == "defective":
            raise RuntimeError(f"this test is defective\n{outcome.message}")
        return outcome


def _run(path: Path, program: str, variant: str, policies: tuple[Policy, ...]) -> tuple[str, str]:
    library = DeviceLibrary(path)
    check = int(variant == "checked")
    library.set_options(check=check, workers=1, multiprocessors=MULTIPROCESSORS)
    for policy in policies:
        library.set_options(**policy.options())
        for problem in problems_of(program):
            try:
                outputs = launch(library, problem.kernel, problem.buffers, problem.numbers)
            except DeviceError as error:
                return "reported", str(error)
            if complaint := problem.complaint(outputs):
                return "wrong", f"{complaint} ({policy})"
    return "unnoticed", ""
