"""What a change touches: kernel passes, ops, and stages of a hardware run. Needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_BATCH_NORM = (
    "bn_finalize",
    "bn_apply",
    "bn_backward_reduce",
    "bn_backward_finalize",
    "bn_backward_apply",
)
_CLOSED_FORM = (
    *("bottleneck_gram", "bottleneck_expand_wgrad", "bottleneck_expand_dgrad"),
    *("closed_form_finalize", "closed_form_backward_reduce", "closed_form_backward_finalize"),
)
_CONV_BACKWARD = ("conv_dgrad", "conv_wgrad")
# The passes that an op's forward and backward launch (a test compares this with what is launched).
PASSES_OF_OP = {
    "conv_bn_relu": ("conv_fprop", *_CONV_BACKWARD, *_BATCH_NORM, "add_relu_backward"),
    "conv_bn_relu_max_pool2d": ("conv_max_pool", "conv_fprop", "max_pool_forward"),
    "bottleneck_reduce": ("bottleneck_reduce", "conv_fprop", *_CONV_BACKWARD, *_BATCH_NORM),
    "bottleneck_expand": (
        *("bottleneck_expand", "conv_fprop", *_CONV_BACKWARD, *_BATCH_NORM),
        "add_relu_backward",
    ),
    "bottleneck_expand_reduce": (
        *("bottleneck_expand_reduce", "bottleneck_expand", "bottleneck_reduce", "conv_fprop"),
        *(*_CONV_BACKWARD, *_BATCH_NORM, "add_relu_backward"),
    ),
    "bottleneck_block": (
        *("bottleneck_block", "bottleneck_reduce", "conv_fprop", "bottleneck_expand"),
        # Batch norms have running statistics: there is nothing to finalise.
        *(*_CONV_BACKWARD, *_BATCH_NORM[1:], "add_relu_backward"),
    ),
    "residual_branch": (
        *("conv_fprop", "bottleneck_reduce", "bottleneck_expand", *_CONV_BACKWARD, *_BATCH_NORM),
        *(*_CLOSED_FORM, "bn_statistics"),
    ),
    "bn_relu": ("bn_statistics", *_BATCH_NORM),
    "add_relu": ("add_relu_forward", "add_relu_backward"),
    "max_pool2d": ("max_pool_forward", "max_pool_backward"),
    "global_avg_pool": ("global_avg_pool_forward", "global_avg_pool_backward"),
}
# What fused networks call; the others serve networks that are put together by hand.
OPS_OF_NETWORKS = frozenset(PASSES_OF_OP) - {"bn_relu", "add_relu"}

CORRECTNESS = frozenset({"correctness", "safety"})
OF_KERNELS = CORRECTNESS | {"kernels", "ops", "gates"}
OF_NETWORKS = frozenset(
    {"models", "blocks", "sweep", "overhead", "training_step", "compile", "max_autotune"}
)
OF_INSTRUCTIONS = frozenset({"probes", "reference_kernels"})


@dataclass(frozen=True)
class Selection:
    """What to run; None: all."""

    passes: frozenset[str] | None = None
    ops: frozenset[str] | None = None
    stages: frozenset[str] | None = None


def names() -> list[str]:
    """What `by_names` accepts: passes, ops, and launchers' files."""
    return sorted({*PASSES_OF_OP, *_passes_of_launchers(), *_every_pass()})


def by_names(chosen: Sequence[str]) -> Selection:
    """All that the kernels or ops of these names take part in.

    Raises:
        ValueError: a name is unknown; the message lists what is known.
    """
    launchers = _passes_of_launchers()
    passes: set[str] = set()
    for name in chosen:
        if name in _every_pass():
            passes.add(name)
        elif name in launchers:
            passes |= launchers[name]
        elif name in PASSES_OF_OP:
            passes |= set(PASSES_OF_OP[name])
        else:
            raise ValueError(
                f"--kernels is {name!r}, which is no kernel and no op; accepted: {', '.join(names())}"
            )
    exact = {name for name in chosen if name in PASSES_OF_OP}
    ops = exact if exact == set(chosen) else exact | ops_of(passes)
    stages = OF_INSTRUCTIONS | OF_KERNELS | (OF_NETWORKS if ops & OPS_OF_NETWORKS else frozenset())
    return Selection(frozenset(passes), frozenset(ops), stages)


def ops_of(passes: Iterable[str]) -> set[str]:
    wanted = set(passes)
    return {op for op, own in PASSES_OF_OP.items() if wanted & set(own)}


def since(ref: str) -> tuple[Selection, list[str]]:
    """What the changes from the git revision to the working tree touch, and one line of reasons for each file.

    Raises:
        ValueError: git does not know the revision, or there is no git.
    """
    return by_files(_changed_files(ref))


def by_files(files: Iterable[str]) -> tuple[Selection, list[str]]:
    """The same for paths relative to the root. What nothing here depends on is left out of the reasons."""
    sources = _Sources()
    passes: set[str] = set()
    ops: set[str] = set()
    stages: set[str] = set()
    reasons = []
    for file in files:
        touched = sources.touched(file)
        passes |= touched[0]
        ops |= touched[1]
        stages |= touched[2]
        if any(touched):
            what = sorted(touched[0]) or sorted(touched[1])
            every = set(what) in (_every_pass(), set(PASSES_OF_OP))
            text = "all kernels" if every else ", ".join(what)
            reasons.append(f"{file}: {text or 'stages ' + ', '.join(sorted(touched[2]))}")
    for op in ops:
        passes |= set(PASSES_OF_OP[op])
    if ops:
        stages |= OF_KERNELS
        if ops & OPS_OF_NETWORKS:
            stages |= OF_NETWORKS
    # A network's change alone leaves the choice of ops open.
    return Selection(
        frozenset(passes) if ops else None, frozenset(ops) if ops else None, frozenset(stages)
    ), reasons


def _changed_files(ref: str) -> list[str]:
    def git(*arguments: str) -> list[str]:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True
            )
        except OSError as error:
            raise ValueError(refused(f"git cannot be run ({error.strerror})")) from error
        if done.returncode:
            raise ValueError(refused(done.stderr.strip() or "git knows no such revision"))
        return done.stdout.splitlines()

    def refused(why: str) -> str:
        return (
            f"--since is {ref!r}: {why}; accepted: a revision, in a checkout with git (HEAD~1, main, ...); "
            "without one, --kernels"
        )

    git("rev-parse", "--git-dir")
    commit = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")[0]
    untracked = git("ls-files", "--others", "--exclude-standard")
    return sorted({*git("diff", "--name-only", "--no-renames", commit), *untracked})


def _every_pass() -> set[str]:
    text = (ROOT / "csrc/launch/kernel_library.h").read_text()
    table = text[text.index("#define RNC_FOR_EACH_PASS") :].split("\n\n")[0]
    return set(re.findall(r"X\((\w+), \w+Params\)", table))


def _passes_of_launchers() -> dict[str, set[str]]:
    """{launcher's file stem: the passes that it defines}."""
    every = _every_pass()
    found = {}
    for path in sorted((ROOT / "csrc/launch").glob("*.c*")):
        defined = set(re.findall(r"^Status (\w+)\(DType", path.read_text(), re.M)) & every
        if defined:
            found[path.stem] = defined
    return found


class _Sources:
    """Who includes and imports what."""

    def __init__(self) -> None:
        self._passes_of_file: dict[str, set[str]] = {}
        launch = (ROOT / "csrc/launch").rglob(
            "*.c*"
        )  # a generation's kernels are in its own folder
        for path in [*launch, *(ROOT / "csrc/bindings").glob("*.cpp")]:
            passes = _passes_of_launchers().get(path.stem, set())
            if path.parent.name == "bindings":
                passes = set(re.findall(r'm\.impl\("_(\w+)"', path.read_text())) & _every_pass()
            for file in _closure(path, _included) if passes else ():
                self._passes_of_file.setdefault(file, set()).update(passes)
        self._ops_of_file: dict[str, set[str]] = {}
        for op in PASSES_OF_OP:
            # What begins with "bottleneck_" shares a module.
            module = ROOT / f"resnet_cuda/ops/{op}.py"
            module = module if module.exists() else module.with_name(op.split("_")[0] + ".py")
            for file in _closure(module, _imported):
                self._ops_of_file.setdefault(file, set()).add(op)
        self._stages_of_file: dict[str, set[str]] = {}
        for stage, folders in (
            ("probes", ["probes"]),
            ("reference_kernels", ["reference_kernels", "first_kernel"]),
        ):
            for folder in [ROOT / "tests" / name for name in [*folders, "device_library"]]:
                for path in folder.rglob("*.*"):
                    files = _closure(path, _included) if path.suffix == ".cu" else {_name(path)}
                    for file in files:
                        self._stages_of_file.setdefault(file, set()).add(stage)

    def touched(self, file: str) -> tuple[set[str], set[str], set[str]]:
        """(passes, ops, stages)."""
        every_op = set(PASSES_OF_OP)
        passes = set(self._passes_of_file.get(file, ()))
        ops = set(self._ops_of_file.get(file, ())) | ops_of(passes)
        stages = set(self._stages_of_file.get(file, ()))
        if file in ("CMakeLists.txt", "setup.py") or file.startswith("cmake/"):
            return _every_pass(), every_op, set(OF_INSTRUCTIONS)
        if file == "resnet_cuda/ops/conv_unit.py" or file == "resnet_cuda/ops/residual_branch.py":
            stages |= OF_NETWORKS | {"safety"}
        if re.match(r"resnet_cuda/(nn|models)/|resnet_cuda/fuse\.py", file):
            stages |= OF_NETWORKS | CORRECTNESS
        if re.match(r"resnet_cuda/(reference|testing)/|resnet_cuda/cli/_?check", file):
            stages |= CORRECTNESS
        if re.match(r"resnet_cuda/bench/|resnet_cuda/cli/bench\.py", file):
            stages |= OF_NETWORKS | {"kernels", "ops"}
        for stage in ("correctness", "safety", "probes", "reference_kernels"):
            if file == f"benchmarks/hardware/{stage}.py":
                stages.add(stage)
        return passes, ops, stages


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _closure(start: Path, reached_from: Callable[[Path], Iterator[Path]]) -> set[str]:
    """The file and all that it reaches, relative to the root."""
    found = {start}
    waiting = [start]
    while waiting:
        for path in reached_from(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return {_name(path) for path in found}


def _included(path: Path) -> Iterator[Path]:
    """Files of csrc and tests that this one includes, and those that implement what a header declares."""
    for name in re.findall(r'^\s*#\s*include\s*"([^"]+)"', path.read_text(), re.M):
        # On a GPU nothing of the emulator is compiled. The table of all passes knows everybody's parameters; a launcher
        # reaches its own through its kernel.
        if name.startswith("emulator/"):
            continue
        if path.name == "kernel_library.h" and name.startswith("kernels/"):
            continue
        for folder in (ROOT / "csrc", path.parent, ROOT):
            header = folder / name
            if header.exists():
                yield header
                if header.suffix == ".h" and header.name != "kernel_library.h":
                    source = f"{header.stem}.c*"
                    yield from [*header.parent.glob(source), *header.parent.glob(f"*/{source}")]
                break


# Not on a GPU.
_CPU_BACKEND = {"resnet_cuda/ops/_aten.py", "resnet_cuda/ops/_onednn.py"}


def _imported(path: Path) -> Iterator[Path]:
    """Modules of the package that this one imports, also inside functions, but not for types alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or id(node) in for_types:
            continue
        parts = (node.module or "").split(".")
        if parts[0] != "resnet_cuda":
            continue
        base = ROOT.joinpath(*parts)
        candidates = [base / f"{alias.name}.py" for alias in node.names] + [base.with_suffix(".py")]
        yield from (c for c in candidates if c.exists() and _name(c) not in _CPU_BACKEND)
