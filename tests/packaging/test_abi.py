"""One `_C` for every torch from the oldest on: an independent audit of what it takes from torch and Python."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from resnet_cuda import _raw
from tests.packaging.distributions import OLDEST_TORCH, ROOT

EXTENSION = _raw.PACKAGE / "_C.abi3.so"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_abi_audit") is None,
    reason="torch-abi-audit is not installed: it is in the extra `test`",
)


@cache
def audited(library: Path) -> dict[str, Any]:
    """What torch-abi-audit says about one library."""
    command = "import sys; from torch_abi_audit.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, "--json", library], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    (found,) = report["extensions"] or report["bundled_libs"]
    assert found["error"] is None
    about: dict[str, Any] = found
    return about


def test_the_extension_takes_from_torch_only_what_every_later_torch_has() -> None:
    torch_abi = audited(EXTENSION)["torch"]
    assert torch_abi["uses_torch"] and torch_abi["stable_shim_count"] > 0
    assert torch_abi["stable"] and not torch_abi["unstable_symbols"]
    assert not torch_abi["unknown_shim_symbols"]


def test_the_oldest_torch_that_the_extension_needs_is_the_one_that_is_promised() -> None:
    promised = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert promised is not None
    assert OLDEST_TORCH == promised[1] + ".0"
    torch_abi = audited(EXTENSION)["torch"]
    assert torch_abi["min_torch_version"] == OLDEST_TORCH, (
        f"these need a newer torch: {torch_abi['version_defining_symbols']}"
    )


def test_the_extension_serves_every_python_with_the_limited_api() -> None:
    python_abi = audited(EXTENSION)["cpython"]
    assert python_abi["intent"]
    assert python_abi["compliant"], python_abi["violations"]


def test_the_audit_finds_a_library_that_is_tied_to_one_torch() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        pytest.skip("torchvision, whose library is the example, is not installed")
    assert not audited(Path(spec.origin).with_name("_C.so"))["torch"]["stable"]
