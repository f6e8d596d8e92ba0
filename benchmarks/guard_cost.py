"""What compiling the kernels costs, measured again for the guard where the build's own figure is above its margin.

The build compiles cmake/reference.cu once and the kernels at other times, in an incremental build on other days.
CPU time depends on what else a machine does: where two threads share a core, or many the caches, the same compilation
takes half as long again. So a figure that looks bad is measured once more, each kernel's source beside a reference of
the same moment.
"""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from resnet_cuda.bench import resources

_ROOT = Path(__file__).resolve().parents[1]
_REFERENCE = "cmake/reference.cu"
_KERNELS = "csrc/launch/"


class Unknown(Exception):
    """It cannot be measured again; the message says why."""


def again(build: Path | None = None) -> float:
    """The cost by the compilers' commands in the folder of this build (default: where the package's record is from).

    Raises:
        Unknown: the folder or its commands are not here, or a command fails.
    """
    folder = build or _build_folder()
    try:
        entries = json.loads((folder / "compile_commands.json").read_text())
    except (OSError, ValueError) as error:
        raise Unknown(f"the build's commands cannot be read: {error}") from error
    commands = {}
    for entry in entries:
        words = shlex.split(entry["command"])
        if Path(words[0]).name.startswith("nvcc"):
            commands[entry["file"]] = words, entry["directory"]
    reference = next((c for file, c in commands.items() if file.endswith(_REFERENCE)), None)
    kernels = [c for file, c in commands.items() if _KERNELS in file and file.endswith(".cu")]
    if reference is None or not kernels:
        raise Unknown(f"compile_commands.json lacks {_REFERENCE} or the kernels")
    return sum(_user_seconds(*kernel) / _user_seconds(*reference) for kernel in kernels)


def _build_folder() -> Path:
    try:
        record = resources.PATH.read_text()
    except OSError as error:
        raise Unknown(f"the build's record cannot be read: {error.strerror}") from error
    for path in (_ROOT / "build").glob(f"*/{resources.PATH.name}"):
        if path.read_text() == record:
            return path.parent
    raise Unknown("the build's folder is not here")


def _user_seconds(command: Sequence[str], directory: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        words = list(command)
        words[words.index("-o") + 1] = f"{folder}/object.o"
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            raise Unknown(f"the compiler failed: {done.stderr.strip()[-200:]}")
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
