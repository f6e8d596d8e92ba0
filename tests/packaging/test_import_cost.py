"""What `import resnet_cuda` loads, and how long that takes beyond `import torch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.packaging.distributions import run

# CPU time, which other processes do not disturb as they do the clock: 50 ms on the machine of the committed reports.
MOST_MILLISECONDS = 150
# Parts that only some programs need.
LATER = {"bench", "cli", "testing", "training"}


@pytest.fixture(scope="module")
def cost() -> dict[str, Any]:
    # -m: of this tree. An installed package has its bytecode, here the first of the runs writes it.
    found: dict[str, Any] = json.loads(
        run(Path(sys.executable), "-m", "tests.packaging.import_cost")
    )
    return found


def test_importing_loads_torch_and_this_package_alone(cost: dict[str, Any]) -> None:
    others = {name.partition(".")[0] for name in cost["modules"]} - {"resnet_cuda"}
    others = {name for name in others if name.lstrip("_") not in sys.stdlib_module_names}
    others = {name for name in others if not name.startswith("_sysconfigdata")}
    assert not others, f"import these where they are used, not when the package is loaded: {others}"


def test_importing_leaves_out_what_only_some_programs_need(cost: dict[str, Any]) -> None:
    parts = {name.split(".")[1] for name in cost["modules"] if name.startswith("resnet_cuda.")}
    assert "ops" in parts
    assert not parts & LATER, f"import these inside functions: {sorted(parts & LATER)}"


def test_importing_takes_little_beyond_torch(cost: dict[str, Any]) -> None:
    assert cost["ms"] < MOST_MILLISECONDS, (
        f"import resnet_cuda takes {cost['ms']:.0f} ms of CPU time beyond torch, at most {MOST_MILLISECONDS} are "
        "allowed: look at python -X importtime -c 'import torch, resnet_cuda'"
    )
