"""Merges what compile_cuda.py wrote beside the kernels' objects: merge_resources.py OUT NVCC OBJECT ...

OUT is the package's kernel_resources.json (resnet_cuda/bench/resources.py reads it); NVCC the compiler's version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SCHEMA = 2


def report_of(target: str) -> dict[str, Any]:
    path = Path(f"{target}.resources.json")
    if not path.exists():
        raise SystemExit(f"{path} is missing: delete {target} and build again")
    return json.loads(path.read_text())


def main(out: str, nvcc: str, *objects: str) -> None:
    user_seconds: dict[str, float] = {}
    compiled = ptx = 0
    kernels = []
    for target in sorted(objects):
        if not target.endswith((".cu.o", ".cu.obj")):
            continue  # host code
        source = Path(target).name.partition(".")[0]
        report = report_of(target)
        # Each generation has a source of its own for a pass.
        user_seconds[source] = user_seconds.get(source, 0.0) + report["user_seconds"]
        compiled += 1
        ptx += report["ptx"]
        kernels += [{"source": source, **kernel} for kernel in report["kernels"]]
    merged = {
        "schema": SCHEMA,
        "nvcc": nvcc,
        "user_seconds": user_seconds,
        "objects": compiled,
        "ptx": ptx,
        "kernels": kernels,
    }
    Path(out).write_text(json.dumps(merged, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
