"""What nvcc made of kernels: their machine instructions, registers and local memory, from a library for GPUs.

Uses NVIDIA's cuobjdump and nvdisasm, which the extra `test` installs from PyPI.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path


class NoDisassembler(RuntimeError):
    """cuobjdump or nvdisasm is not installed."""


@dataclass
class Kernel:
    """`name` is mangled; instructions are opcode and operands without predicate and address.

    `addresses` of them; `predicated`: those that some threads skip.
    """

    name: str
    architecture: str
    instructions: list[str] = field(default_factory=list)
    addresses: list[int] = field(default_factory=list)
    predicated: set[int] = field(default_factory=set)
    registers: int = 0
    stack_bytes: int = 0
    local_bytes: int = 0

    def count(self, pattern: str) -> int:
        """Instructions that begin with a match of the pattern."""
        return sum(re.match(pattern, instruction) is not None for instruction in self.instructions)

    def before(self, pattern: str) -> list[str]:
        """What a thread may execute before it meets a match of the pattern, whichever way it branches."""
        index = {address: i for i, address in enumerate(self.addresses)}
        reached: set[int] = set()
        ahead = [0]
        while ahead:
            at = ahead.pop()
            instruction = self.instructions[at]
            if at in reached or re.match(pattern, instruction):
                continue
            reached.add(at)
            if match := _TARGET.match(instruction):
                ahead.append(index[int(match[1], 16)])
            if self.addresses[at] in self.predicated or not _LEAVES.match(instruction):
                ahead.append(at + 1)
        return [self.instructions[at] for at in sorted(reached)]


def _search_path() -> str:
    wheels = Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin")
    return os.pathsep.join([*map(str, sorted(wheels)), os.environ.get("PATH", os.defpath)])


def _cuobjdump(option: str, library: Path) -> str:
    path = _search_path()
    for tool in ("cuobjdump", "nvdisasm"):  # the first runs the second
        if shutil.which(tool, path=path) is None:
            raise NoDisassembler(
                f"{tool} is not installed: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm "
                "(the extra `test`)"
            )
    command = [shutil.which("cuobjdump", path=path), option, str(library)]
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


_ARCHITECTURE = re.compile(r"^(?:\s*code for|arch =) (sm_\w+)")
_FUNCTION = re.compile(r"^\s*Function ?:? (\S+?):?$")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][^;]*?)\s*;")
# Where a branch, a call or the end of a divergent stretch leads, and what no thread goes on behind.
_TARGET = re.compile(r"(?:BRA|CALL|BSSY|WARPSYNC)\b.*?(0x[0-9a-f]+)$")
_LEAVES = re.compile(r"BRA 0x|EXIT|RET|BRX|JMX")
_RESOURCES = re.compile(r"^\s*REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)")


def kernels(library: Path) -> list[Kernel]:
    """All kernels of a library, once per architecture it has machine code for."""
    found: dict[tuple[str, str], Kernel] = {}
    for option in ("-sass", "-res-usage"):
        architecture, kernel = "", None
        for line in _cuobjdump(option, library).splitlines():
            if match := _ARCHITECTURE.match(line):
                architecture = match[1]
            elif match := _FUNCTION.match(line):
                key = (architecture, match[1])
                kernel = found.setdefault(key, Kernel(match[1], architecture))
            elif kernel and (match := _INSTRUCTION.match(line)):
                address = int(match[1], 16)
                kernel.addresses.append(address)
                kernel.instructions.append(match[3])
                if match[2]:
                    kernel.predicated.add(address)
            elif kernel and (match := _RESOURCES.match(line)):
                kernel.registers, kernel.stack_bytes, kernel.local_bytes = map(int, match.groups())
    return list(found.values())


def spilling(found: Iterable[Kernel]) -> Iterator[str]:
    """What is wrong with each kernel that has or touches local memory."""
    for kernel in found:
        accesses = kernel.count(r"(LDL|STL)\b")
        if kernel.stack_bytes or kernel.local_bytes or accesses:
            yield (
                f"{kernel.architecture} {kernel.name}: {kernel.stack_bytes} bytes of stack, "
                f"{kernel.local_bytes} of local memory, {accesses} accesses of it"
            )
