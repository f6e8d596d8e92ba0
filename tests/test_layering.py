"""The architecture's rules that a text search can hold: who may include, import and branch on what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
PACKAGE = ROOT / "resnet_cuda"

# A C++ layer may include itself and what stands left of it.
CPP_LAYERS = ["common", "ptx", "tile", "kernels", "launch", "bindings"]
# Beside the stack: what each of these may include, and who may include them.
CPP_ASIDE = {
    "emulator": {"common", "emulator"},
    "host": {"common", "kernels", "launch", "emulator", "host"},
}
CPP_EXCEPTIONS = {
    # The element types need CUDA's own types on the device: the one header of ptx that common is built on.
    ("common/dtype.h", "ptx/numeric_types.h"),
    ("common/fast_divmod.h", "ptx/numeric_types.h"),
    # The emulator's public face.
    ("bindings/stage.cpp", "emulator/emulator_api.h"),
    # The seam: what stands for an instruction or a launch when kernels are host code.
    ("launch/launch_kernel.h", "emulator/emulator.h"),
}
# Where the device's and the host's side of launching differ.
CONDITIONAL_LAUNCH_HEADERS = {"launch/launch_kernel.h", "launch/encode_tensor_map.h"}
# Constants and problem descriptions of the kernels that tiles are shaped by.
SHARED_DESCRIPTIONS = re.compile(r"kernels/.*_(params|problem)\.h")

# A Python module may import, when it is loaded, what stands above it. Imports inside functions are free.
PY_LAYERS = [
    "_C",
    "_host",
    "_compiler",
    "_backend",
    "reference",
    "_raw",
    "_fakes",
    "_selection",
    "ops",
    "nn",
    "models",
    "convert",
    "_recognised",
    "_survey",
    "fuse",
    "trace",
    "explain",
    "testing",
    "bench",
    "training",
    "cli",
    "__main__",
]


def cpp_files(*folders: str) -> list[Path]:
    roots = [CSRC / folder for folder in folders] or [CSRC]
    return sorted(
        p for root in roots for p in root.rglob("*") if p.suffix in {".h", ".cuh", ".cpp", ".cu"}
    )


def relative(path: Path) -> str:
    return path.relative_to(CSRC).as_posix()


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), flags=re.M)


def without_comments(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def passes() -> list[str]:
    text = (CSRC / "launch" / "kernel_library.h").read_text()
    table = text[text.index("#define RNC_FOR_EACH_PASS") :].split("\n\n")[0]
    return re.findall(r"X\((\w+), \w+Params\)", table)


def test_torch_headers_are_included_only_by_the_bindings() -> None:
    torch_header = re.compile(r"^(torch|ATen|c10|Python\.h)\b")
    offenders = [
        f"{relative(path)} includes {name}"
        for path in cpp_files()
        for name in includes(path)
        if torch_header.match(name) and relative(path).split("/")[0] != "bindings"
    ]
    assert not offenders, f"move what needs torch to csrc/bindings: {offenders}"


def test_kernels_have_neither_inline_assembly_nor_conditional_compilation() -> None:
    forbidden = re.compile(r"^\s*#\s*(?:if|ifdef|ifndef|elif)\b|\basm\b|__asm__", flags=re.M)
    examples = ROOT / "tests" / "reference_kernels"
    files = [
        *(
            path
            for path in cpp_files("common", "tile", "kernels", "launch")
            if relative(path) not in CONDITIONAL_LAUNCH_HEADERS
        ),
        *(path for path in examples.rglob("*") if path.suffix in {".h", ".cuh", ".cu"}),
    ]
    offenders = [
        f"{path.relative_to(ROOT)}: {match.group().strip()}"
        for path in files
        for match in forbidden.finditer(without_comments(path.read_text()))
    ]
    assert not offenders, f"put instructions and host/device differences into csrc/ptx: {offenders}"


def allowed(source: str, target: str) -> bool:
    """Whether the file `source` may include `target`, both relative to csrc."""
    layer, included = source.split("/")[0], target.split("/")[0]
    if (source, target) in CPP_EXCEPTIONS:
        return True
    if layer in CPP_ASIDE:
        return included in CPP_ASIDE[layer]
    if included == "emulator":
        return layer == "ptx"
    if included in CPP_ASIDE:
        return False
    if layer == "tile" and SHARED_DESCRIPTIONS.fullmatch(target):
        return True
    return CPP_LAYERS.index(included) <= CPP_LAYERS.index(layer)


def test_cpp_layers_include_only_downwards() -> None:
    folders = set(CPP_LAYERS) | set(CPP_ASIDE)
    offenders = [
        f"{relative(path)} includes {name}"
        for path in cpp_files()
        for name in includes(path)
        if name.split("/")[0] in folders and not allowed(relative(path), name)
    ]
    assert not offenders, (
        f"an include goes upwards: {offenders}; the order is {' < '.join(CPP_LAYERS)}"
    )


def loaded_imports(tree: ast.Module) -> Iterator[str]:
    """The names inside resnet_cuda that loading the module imports, as dotted names without the package."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            raise AssertionError(f"line {node.lineno}: write the import absolutely")
        else:
            continue
        for name in names:
            if name.startswith("resnet_cuda."):
                yield name.removeprefix("resnet_cuda.")


def test_python_layers_import_only_downwards() -> None:
    offenders = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue  # the package's face gathers all layers
        assert parts[0] in PY_LAYERS, f"{path.name}: give the new layer its place in PY_LAYERS"
        for name in loaded_imports(ast.parse(path.read_text())):
            target = name.split(".")[0]
            if target in PY_LAYERS and PY_LAYERS.index(target) > PY_LAYERS.index(parts[0]):
                offenders.append(f"{'/'.join(parts)} imports {name}")
    assert not offenders, (
        f"an import goes upwards: {offenders}; the order is {' < '.join(PY_LAYERS)}"
    )


@pytest.mark.parametrize("stem", passes())
def test_every_pass_has_a_launcher_a_kernel_and_a_binding(stem: str) -> None:
    launcher = [
        p for p in cpp_files("launch") if re.search(rf"^Status {stem}\(DType", p.read_text(), re.M)
    ]
    assert len(launcher) == 1, f"csrc/launch must define Status {stem}(DType, ...) exactly once"

    # A generation's kernels are launched from a file of the same name in its folder.
    by_generation = sorted((CSRC / "launch").glob(f"*/{launcher[0].name}"))
    reached = {name for path in [launcher[0], *by_generation] for name in includes(path)}
    for name in list(reached):
        if name.startswith("launch/"):
            reached |= set(includes(CSRC / name))
    own_kernel = any(re.fullmatch(r"(kernels|tile)/.*\.cuh", name) for name in reached)
    text = without_comments(launcher[0].read_text())
    delegates = any(
        re.search(rf"return (launch_)?{other}\(", text) for other in passes() if other != stem
    )
    assert own_kernel or delegates, (
        f"{relative(launcher[0])} neither launches a kernel of csrc/kernels nor hands on to another pass"
    )

    bindings = "".join(p.read_text() for p in cpp_files("bindings"))
    assert f"&KernelLibrary::{stem}," in bindings, f"no op in csrc/bindings runs the pass {stem}"
    assert f'm.impl("_{stem}"' in bindings, f"register the op _{stem} in csrc/bindings"
    assert f'"_{stem}(' in bindings, f"give the op _{stem} its schema in csrc/bindings"


def test_launcher_and_binding_share_a_file_name() -> None:
    launchers = {
        p.stem
        for p in cpp_files("launch")
        if p.suffix != ".h" and re.search(r"^Status \w+\(DType", p.read_text(), re.M)
    }
    launchers.discard("kernel_library")
    bindings = {p.stem for p in cpp_files("bindings")}
    assert launchers <= bindings, f"no csrc/bindings/<stem>.cpp for {sorted(launchers - bindings)}"
