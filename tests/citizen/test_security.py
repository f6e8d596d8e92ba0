"""What the sources may do, what the libraries are compiled with, and sizes that overflow."""

from __future__ import annotations

import ast
import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from resnet_cuda import _raw, _selection
from tests.fuzz.nonsense import BACKENDS, survive, text_of
from tests.fuzz.valid_calls import RAW_CALLS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("resnet_cuda", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)
NETWORK = {
    *("aiohttp", "asyncio", "ftplib", "http", "httpx", "imaplib", "poplib", "requests", "smtplib"),
    *("socket", "socketserver", "ssl", "telnetlib", "urllib", "urllib3", "xmlrpc"),
}
CODE_IN_DATA = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "_pickle"}
STARTS_PROGRAMS = {"multiprocessing", "pexpect", "pty", "subprocess"}
# The files that need what others may not have, and what for.
ALLOWED = {
    "subprocess": {
        "benchmarks/hardware/affected.py": "asks git and nvcc",
        "benchmarks/hardware/build.py": "builds",
        "benchmarks/hardware/process.py": "runs each stage in a process of its own",
        "resnet_cuda/bench/environment.py": "asks lscpu, git and nvidia-smi",
        "resnet_cuda/bench/gpu_monitor.py": "asks nvidia-smi",
    },
}
CALLS = {
    *("eval", "exec", "compile", "builtins.eval", "builtins.exec", "os.system", "os.popen"),
    *("pickle.load", "pickle.loads", "torch.hub.load", "torch.utils.cpp_extension.load"),
    *("torch.hub.load_state_dict_from_url", "torch.hub.download_url_to_file"),
}


def imported(tree: ast.AST) -> Iterator[str]:
    """The top-level packages that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def faults(path: str, source: str) -> list[str]:
    """What a file does that it may not."""
    tree = ast.parse(source)
    found = [
        f"{path} imports {name}"
        for name in sorted(set(imported(tree)) & (NETWORK | CODE_IN_DATA | STARTS_PROGRAMS))
        if path not in ALLOWED.get(name, {})
    ]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        where = f"{path}:{node.lineno} calls {name}"
        if name in CALLS:
            found.append(where)
        elif name == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{where} without weights_only=True")
        elif (
            options.get("shell", "False") != "False"
            or options.get("allow_pickle", "False") != "False"
        ):
            found.append(f"{where} with {options}")
    return found


def test_no_source_evaluates_code_reads_pickles_starts_programs_or_uses_the_network() -> None:
    found = [
        fault for path in SOURCES for fault in faults(str(path.relative_to(ROOT)), path.read_text())
    ]
    assert not found, "\n".join(found)


def test_every_exception_is_still_needed() -> None:
    for name, files in ALLOWED.items():
        for path in files:
            tree = ast.parse((ROOT / path).read_text())
            assert name in set(imported(tree)), (
                f"{path} no longer imports {name}: take it off the list"
            )


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "def f():\n    import socket",
        "eval('1')",
        "exec(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "os.system('ls')",
        "run('ls', shell=True)",
    ],
)
def test_the_check_of_sources_finds(source: str) -> None:
    assert faults("resnet_cuda/new.py", source)


LIBRARIES = {
    "_C": lambda: next(Path(_raw.__file__).parent.glob("_C*.so")),
    "_host": lambda: next(Path(_raw.__file__).parent.glob("_host*.so")),
    "emulated": lambda: Path(_selection.emulator_library(False)),
    "emulated_checked": lambda: Path(_selection.emulator_library(True)),
}


def readelf(library: Path, *options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("binutils is not installed")
    return subprocess.run(
        ["readelf", "--wide", *options, library], check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_has_canaries_and_checked_libc_calls(name: str) -> None:
    symbols = readelf(LIBRARIES[name](), "--dyn-syms")
    assert "__stack_chk_fail" in symbols, (
        "compile with -fstack-protector-strong (cmake/RncHardening.cmake)"
    )
    if name.startswith("emulated"):  # the others call nothing that has a checked form
        assert "__vsnprintf_chk" in symbols, (
            "compile with -D_FORTIFY_SOURCE (cmake/RncHardening.cmake)"
        )


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_is_bound_at_once_and_has_nothing_writable_that_runs(name: str) -> None:
    dynamic, segments = (
        readelf(LIBRARIES[name](), "--dynamic"),
        readelf(LIBRARIES[name](), "--segments"),
    )
    assert "BIND_NOW" in dynamic or re.search(r"FLAGS_1.*\bNOW\b", dynamic), "link with -z now"
    assert "GNU_RELRO" in segments, "link with -z relro"
    assert "TEXTREL" not in dynamic, "code needs relocations: compile with -fPIC"
    stack = re.search(r"GNU_STACK.*", segments)
    assert stack and " RWE " not in stack.group(), (
        "the stack is executable: link with -z noexecstack"
    )
    loaded = re.findall(r"LOAD.*", segments)
    assert loaded and not [line for line in loaded if " RWE " in line], (
        "a segment is writable and runs"
    )


# Near what 32-bit indices, 64-bit indices and their products hold; no such tensor fits the memory that a call may have.
SIZES = (2**31 - 1, 2**31, 2**32 + 8, 2**62, 2**63 - 1)


def enlarged(value: str, made: str) -> list[str]:
    """An argument's text with each of its sizes that large, and each two neighbours; `made` stands for a tensor of
    sizes."""
    tensor = re.fullmatch(r"t\(([\d, ]+), dtype=(.*)\)", value)
    text = tensor.group(1) if tensor else value.strip("[]")
    if not re.fullmatch(r"[\d, ]+", text):
        return []
    sizes = text.split(", ")
    found = []
    for size, i, count in itertools.product(SIZES, range(len(sizes)), (1, 2)):
        if i + count <= len(sizes):
            new = ", ".join([*sizes[:i], *[str(size)] * count, *sizes[i + count :]])
            if tensor:
                new = made.format(sizes=new, dtype=tensor.group(2))
            found.append(f"[{new}]" if value.startswith("[") else new)
    return found


def enlarged_calls(made: str, tensors: bool) -> list[str]:
    """Every raw op with each of its tensors (or each of its numbers) too large."""
    return [
        text_of(BACKENDS[1], target, arguments | {name: new})
        for target, arguments in RAW_CALLS
        for name, value in arguments.items()
        if value.startswith("t(") == tensors
        for new in enlarged(value, made)
    ]


def test_a_raw_op_refuses_tensors_of_sizes_that_overflow() -> None:
    lines = enlarged_calls("fake({sizes}, dtype={dtype})", tensors=True)
    ops = {line.partition("raw.")[2].partition("(")[0] for line in lines}
    assert len(ops) == len(RAW_CALLS)
    survive(["--errors-only"], lines)


def larger_images(target: str, arguments: dict[str, str], n: int, h: int) -> str:
    """The call with every image of 2 x 6 x 5 pixels, and its bits, enlarged alike, so that no two arguments differ."""
    new = {}
    for name, value in arguments.items():
        value = value.replace("t(60,", f"fake({n * h * 5},")
        value = re.sub(r"t\(2, (\d+), 6, 5,", rf"fake({n}, \1, {h}, 5,", value)
        new[name] = value.replace("[2, 8, 6, 5]", f"[{n}, 8, {h}, 5]")
    return text_of(BACKENDS[1], target, new)


def test_a_raw_op_refuses_images_that_overflow_or_that_no_memory_holds() -> None:
    most = (
        2**31 - 1
    ) // 30  # images whose pixels 32 bits can number: these pass every check of shapes
    sizes = (
        (most, 6),
        (most + 1, 6),
        (2**31 - 1, 6),
        (2**40, 6),
        (2, (2**31 - 1) // 10),
        (2, 2**31),
    )
    images = [(target, options) for target, options in RAW_CALLS if "t(2, 8, 6, 5," in str(options)]
    assert len(images) >= 18
    survive(["--errors-only"], [larger_images(*call, *size) for call in images for size in sizes])


def test_a_raw_op_survives_numbers_that_overflow() -> None:
    survive([], enlarged_calls("", tensors=False))


def test_a_traced_raw_op_survives_sizes_that_overflow() -> None:
    def on_meta(line: str) -> str:
        return re.sub(r" t\(|=t\(", "=meta(", line)

    lines = enlarged_calls("meta({sizes}, dtype={dtype})", tensors=True)
    lines += enlarged_calls("", tensors=False)
    survive([], [on_meta(line) for line in lines])
