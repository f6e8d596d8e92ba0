"""Stage `build`: what is compiled and loads here; what is missing is built where there is a compiler."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.hardware.affected import ROOT
from benchmarks.hardware.process import Process, how_it_ended
from benchmarks.hardware.protocol import say

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

LIBRARIES = (
    "probes_ampere",
    "probes_hopper",
    "reference_ampere",
    "reference_hopper",
    "first_kernel",
)
_LOAD_SECONDS = 60
_SPARE_SECONDS = 15  # to look again after a build
_LAST_LINES = 12

# In processes of their own, because a binary for another machine may kill whoever loads it.
_LOAD_EXTENSION = """
import json, sys
from resnet_cuda import _raw, _selection
try:
    _raw.require() if sys.argv[1] == "dry-run" else _raw.require_cuda()
    if sys.argv[1] == "dry-run":
        _selection.emulator_library(checked=False)
    answer = {"missing": "", **_raw.build_info()}
except RuntimeError as error:
    answer = {"missing": str(error)}
print("@@" + json.dumps(answer))
"""
_LOAD_LIBRARIES = """
import json, os, sys
from tests.device_library.library import DeviceLibrary, library_path
missing = []
for name in sys.argv[2:]:
    path = library_path(name, "emulated" if sys.argv[1] == "dry-run" else "cuda")
    try:
        path is None or DeviceLibrary(path)
    except (OSError, AttributeError) as error:
        path, name = None, f"{name} ({error})"
    if path is None:
        missing.append(name)
where = "RNC_TEST_LIB_DIR" if os.environ.get("RNC_TEST_LIB_DIR") else "build/"
text = f"not in {where} or not loadable: {', '.join(missing)}"
print("@@" + json.dumps({"missing": text if missing else ""}))
"""


def run(context: Context) -> int:
    missing, about = look(context.device)
    built = ""
    if context.rebuild or any(missing.values()):
        why = cannot_build(context.dry)
        built = why or build(context.left() - _SPARE_SECONDS)
        if not why:
            missing, about = look(context.device)
    say("section", ["build", {**missing, "built": built, "about": about}])
    if stale := newer_sources():
        say("note", stale)
    if not any(missing.values()):
        return 0
    print(built)  # the last line of a stage that fails is what it is remembered by
    return 1


def look(device: str) -> tuple[dict[str, str], dict[str, object]]:
    """({"extension": what is wrong with it, "libraries": the same}, what the extension says of itself)."""
    extension = _answer(_LOAD_EXTENSION, device)
    libraries = _answer(_LOAD_LIBRARIES, device, *LIBRARIES)
    missing = {
        "extension": str(extension.pop("missing")),
        "libraries": str(libraries["missing"]),
    }
    return missing, extension


def _answer(script: str, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "-c", script, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=_LOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"missing": f"does not load within {_LOAD_SECONDS} s"}
    for line in done.stdout.splitlines():
        if line.startswith("@@"):
            answer: dict[str, object] = json.loads(line[2:])
            return answer
    last = done.stderr.strip().splitlines()[-1:] or [""]
    return {"missing": f"loading it {how_it_ended(done.returncode)}: {last[0]}"}


def cannot_build(dry: bool) -> str:
    """Why there is no building here; "" where there is."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    lacking = [tool for tool in ("cmake", "ninja", "c++") if not shutil.which(tool, path=path)]
    if not dry and not find_nvcc():
        lacking.append("nvcc")
    if lacking:
        return f"not built: no {', '.join(lacking)}"
    if not os.access(ROOT, os.W_OK) or not os.access(ROOT / "resnet_cuda", os.W_OK):
        return "not built: the checkout is read-only"
    return ""


def find_nvcc() -> str | None:
    """As cmake/RncCuda.cmake looks for it; pip's wheels are found by its own rules and count as none here."""
    folders = [os.environ.get("PATH", os.defpath)]
    folders += [f"{home}/bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    return shutil.which("nvcc", path=os.pathsep.join(folders))


def build(seconds: float) -> str:
    """Builds in place, as `make` does; returns how that went."""
    environment = {**os.environ, "RNC_TESTS": "ON"}
    nvcc = find_nvcc()
    if nvcc and "CUDA_HOME" not in environment:
        environment["CUDA_HOME"] = str(Path(nvcc).resolve().parents[1])
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    process = Process(command, ROOT, environment)
    end = time.monotonic() + seconds
    lines: list[str] = []
    try:
        while (line := process.line(end - time.monotonic())) is not None:
            print(line, end="", flush=True)
            lines = [*lines, line][-_LAST_LINES:]
    except TimeoutError:
        process.kill()
        return f"the build was stopped after {seconds:.0f} s"
    status = process.end()
    if status == 0:
        return "built here"
    errors = [line.strip() for line in lines if "error" in line.lower()] or lines[-1:]
    return f"the build {how_it_ended(status)}: {' '.join(errors)[-300:]}"


def newer_sources() -> str:
    """A warning where a kernel's source is newer than the extension; "" otherwise."""
    binary = ROOT / "resnet_cuda/_C.abi3.so"
    if not binary.exists():
        return ""
    sources = [p for p in (ROOT / "csrc").rglob("*.*") if "emulator" not in p.parts]
    newest = max(sources, key=lambda path: path.stat().st_mtime)
    if newest.stat().st_mtime <= binary.stat().st_mtime:
        return ""
    return (
        f"{newest.relative_to(ROOT)} is newer than {binary.name}: if it was changed since, what follows "
        "is about the kernels before the change (--build builds them first)"
    )
