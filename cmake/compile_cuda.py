"""Runs an nvcc command: compile_cuda.py [--resources] nvcc ...

Fails where ptxas only advises: that wgmma instructions are serialised (C7510 and its neighbours) is an "info" to
ptxas, which no option turns into an error. So are launch bounds that a GPU cannot keep, a warning.

--resources: writes <object>.resources.json beside the object, what the compiler made of each kernel on each
architecture and what that cost (docs/architecture.md, "What the build records"):
    {"user_seconds": 10.8,                   CPU time of the compiler and all that it started
     "ptx": 1843200,                         bytes of all PTX that it wrote on the way
     "kernels": [{"symbol": "_Z...", "name": "void rnc::...", "architecture": "sm_80",
                  "registers": 105,          per thread
                  "threads": 256,            of a block, from __launch_bounds__; null without
                  "static_shared": 0, "dynamic_shared": 33792,     bytes of a block
                  "stages": 3,               of operands in dynamic shared memory; 0: no pipeline
                  "stack": 0, "spill_stores": 0, "spill_loads": 0, bytes of a thread
                  "constant": 584, "code": 11520}]}                bytes
Registers, stack, spills and static shared memory are what `ptxas -v` says, the code's size is that of the machine
code's ELF section, block size, dynamic shared memory and stages come from the PTX (dynamic_smem<Storage>() names
its memory after its size and stages).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ADVICE = re.compile(
    r"^ptxas (info\s*: \(C\d+\)|warning\s*: .*minnctapersm will be ignored)", flags=re.M
)

_COMPILING = re.compile(r"^ptxas info\s*: Compiling entry function '(\w+)' for '(\w+)'")
_PROPERTIES = re.compile(r"^ptxas info\s*: Function properties for (\w+)")
_STACK = re.compile(
    r"^\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
)
_USED = re.compile(r"^ptxas info\s*: Used (\d+) registers(.*)")
_VERBOSE = re.compile(r"^(ptxas info\s*: (?!\(C\d+\))|\s*\d+ bytes stack frame)")

_ENTRY = re.compile(r"^(?:\.visible |\.weak )*\.entry (\w+)")
_THREADS = re.compile(r"^\.(?:maxntid|reqntid) (\d+)(?:, (\d+), (\d+))?")
_DYNAMIC = re.compile(r"\bmov\b.*dynamic_smem_ofIL[mj](\d+)EL[mj](\d+)E")


def parse_ptxas(output: str) -> dict[tuple[str, str], dict[str, int]]:
    """{(symbol, architecture): figures} from what `ptxas -v` printed."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    key, of = ("", ""), ""
    for line in output.splitlines():
        if match := _COMPILING.match(line):
            key, of = (match[1], match[2]), ""
        elif match := _PROPERTIES.match(line):
            of = match[1]  # also of functions that a kernel calls
        elif (match := _STACK.match(line)) and of == key[0]:
            names = ("stack", "spill_stores", "spill_loads")
            found.setdefault(key, {}).update(zip(names, map(int, match.groups()), strict=True))
        elif match := _USED.match(line):
            shared = re.search(r"(\d+) bytes smem", match[2])
            constant = re.findall(r"(\d+) bytes cmem\[\d+\]", match[2])
            found.setdefault(key, {}).update(
                registers=int(match[1]),
                static_shared=int(shared[1]) if shared else 0,
                constant=sum(map(int, constant)),
            )
    return found


def parse_ptx(text: str) -> dict[str, dict[str, int | None]]:
    """{symbol: threads of a block, bytes of dynamic shared memory, stages of operands in it} of the kernels in a PTX
    file."""
    found: dict[str, dict[str, int | None]] = {}
    kernel: dict[str, int | None] = {}
    for line in text.splitlines():
        if match := _ENTRY.match(line):
            kernel = found[match[1]] = {"threads": None, "dynamic_shared": 0, "stages": 0}
        elif match := _THREADS.match(line):
            x, y, z = (int(extent or 1) for extent in match.groups())
            kernel["threads"] = x * y * z
        elif match := _DYNAMIC.search(line):
            for name, value in zip(("dynamic_shared", "stages"), match.groups(), strict=True):
                kernel[name] = max(kernel[name] or 0, int(value))
    return found


def code_sizes(cubin: bytes) -> dict[str, int]:
    """{symbol: bytes of machine code} of the kernels in a 64-bit ELF file."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)
    entry_size, count, names_index = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [
        struct.unpack_from(
            "<IIQQQQ", cubin, table + i * entry_size
        )  # name, type, ..., offset, size
        for i in range(count)
    ]
    names = headers[names_index][4]
    sizes = {}
    for name, _, _, _, _, size in headers:
        start = names + name
        text = cubin[start : cubin.index(b"\0", start)].decode()
        if text.startswith(".text."):
            sizes[text.removeprefix(".text.")] = size
    return sizes


def demangle(symbol: str) -> str:
    """By the C++ runtime that the compiler's output needs anyway; the symbol itself where there is none."""
    for library in ("libstdc++.so.6", "libc++abi.so.1"):
        try:
            function = ctypes.CDLL(library).__cxa_demangle
        except (OSError, AttributeError):
            continue
        function.restype = ctypes.c_void_p
        status = ctypes.c_int()
        text = function(symbol.encode(), None, None, ctypes.byref(status))
        return symbol if status.value else (ctypes.string_at(text) or b"").decode()
    return symbol


def kernels(output: str, kept: Path) -> list[dict[str, Any]]:
    """All kernels of one object, from the compiler's words and the intermediate files that it kept."""
    verbose = parse_ptxas(output)
    found = []
    for cubin in sorted(kept.glob("*.cubin")):
        # name.compute_80.sm_80.cubin; without a part of which there is only one: of name.compute_90a.cubin the PTX's
        # architecture is the code's, too, name.sm_80.cubin is by the only PTX, and name.cubin the only code
        parts = [p for p in cubin.name.split(".") if re.fullmatch(r"(compute|sm)_\w+", p)]
        if parts:
            architecture = "sm_" + parts[-1].partition("_")[2]
        else:
            (architecture,) = {architecture for _, architecture in verbose}
        virtual = [p for p in parts if p.startswith("compute_")]
        source = ".".join([cubin.name.split(".")[0], *virtual, "ptx"])
        bounds = parse_ptx((kept / source).read_text())
        for symbol, size in code_sizes(cubin.read_bytes()).items():
            if symbol not in bounds:
                continue  # a function that kernels call
            found.append(
                {
                    "symbol": symbol,
                    "name": demangle(symbol),
                    "architecture": architecture,
                    **verbose[symbol, architecture],
                    **bounds[symbol],
                    "code": size,
                }
            )
    return sorted(found, key=lambda kernel: (kernel["symbol"], kernel["architecture"]))


def run(command: list[str], **options: Any) -> tuple[int, str]:
    """Exit status and output; the output is shown without the lines of `ptxas -v`."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    lines = done.stdout.splitlines(keepends=True)
    sys.stdout.write("".join(line for line in lines if not _VERBOSE.match(line)))
    if done.returncode == 0 and ADVICE.search(done.stdout):
        print("error: ptxas advises against this code (above), and this build takes its advice")
        return 1, done.stdout
    return done.returncode, done.stdout


def main(arguments: list[str]) -> int:
    if arguments[0] != "--resources":
        return run(arguments)[0]
    command = arguments[1:]
    target = Path(command[command.index("-o") + 1])
    report = Path(f"{target}.resources.json")
    report.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        status, output = run([*command, "-Xptxas", "-v", "--keep", "--keep-dir", folder])
        if status == 0:
            usage = resource.getrusage(resource.RUSAGE_CHILDREN)
            found = {
                "user_seconds": usage.ru_utime,
                "ptx": sum(path.stat().st_size for path in Path(folder).glob("*.ptx")),
                "kernels": kernels(output, Path(folder)),
            }
            report.write_text(json.dumps(found, indent=1) + "\n")
        elif target.exists():
            os.unlink(target)  # an object without its report would never be compiled again
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
