"""What the built libraries need and show: one binary must serve every torch >= 2.11 and Python >= 3.10."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from resnet_cuda import _raw, _selection

PACKAGE = Path(_raw.__file__).parent
EXTENSION = PACKAGE / "_C.abi3.so"
# Of Python's limited API as 3.10 has it: the module itself, and reading torch's switch for TF32.
PYTHON_API = {
    "PyModule_Create2",
    "PyErr_Clear",
    "PyGILState_Ensure",
    "PyGILState_Release",
    "PyImport_ImportModule",
    "PyObject_GetAttrString",
    "PyType_GetFlags",
    "PyUnicode_CompareWithASCIIString",
    "_Py_Dealloc",
}

pytestmark = pytest.mark.skipif(
    shutil.which("nm") is None or shutil.which("readelf") is None,
    reason="binutils is not installed",
)


def symbols(library: Path, which: str) -> set[str]:
    listing = subprocess.run(
        ["nm", "-D", f"--{which}", library], check=True, capture_output=True, text=True
    ).stdout
    return {line.split()[-1].split("@")[0] for line in listing.splitlines()}


def test_the_extension_uses_only_torch_s_stable_c_functions() -> None:
    mangled = re.compile(r"^_ZN?K?(2at|3c10|5torch)")
    used = sorted(name for name in symbols(EXTENSION, "undefined-only") if mangled.match(name))
    assert not used, f"these C++ symbols tie the binary to one torch: {used}"


def test_the_extension_uses_only_the_limited_python_api() -> None:
    used = {name for name in symbols(EXTENSION, "undefined-only") if name.startswith(("Py", "_Py"))}
    assert used <= PYTHON_API, (
        f"check that the limited API 3.10 has these: {sorted(used - PYTHON_API)}"
    )


def test_the_extension_needs_no_cuda_library_and_remembers_no_path() -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", EXTENSION], check=True, capture_output=True, text=True
    ).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic)
    assert not [name for name in needed if "cuda" in name], f"link CUDA statically: {needed}"
    assert "RPATH" not in dynamic and "RUNPATH" not in dynamic


@pytest.mark.parametrize("checked", [False, True])
def test_an_emulated_library_exports_only_its_two_entry_points(checked: bool) -> None:
    defined = symbols(_selection.emulator_library(checked), "defined-only")
    assert defined == {"rnc_kernel_library", "rnc_emulator_api"}


def test_the_checked_library_brings_its_own_tsan_functions() -> None:
    undefined = symbols(_selection.emulator_library(True), "undefined-only")
    assert not [name for name in undefined if name.startswith("__tsan")]


def test_an_extension_of_other_sources_is_named_with_the_ops_that_it_lacks() -> None:
    _raw.require_ops(["_conv_fprop"])
    with pytest.raises(ImportError, match=r"it has no _conv_of_tomorrow; build them with"):
        _raw.require_ops(["_conv_fprop", "_conv_of_tomorrow"])
