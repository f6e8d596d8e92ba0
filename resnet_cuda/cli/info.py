"""Print versions, devices and what was built; of a model, what it costs."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Iterator

import torch

import resnet_cuda
from resnet_cuda import _raw, _selection
from resnet_cuda.cli import _complexity

_EMULATORS = ("librnc_emulated.so", "librnc_emulated_checked.so")
_OPTIONAL = ("torchvision", "timm", "scikit-learn", "matplotlib", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernels",
        nargs="?",
        const="",
        metavar="TEXT",
        help="what the compiler made of the kernels: registers, shared memory, occupancy, spills; with TEXT, "
        "each kernel whose name contains it",
    )
    _complexity.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.kernels is not None:
        return _print_kernels(arguments.kernels)
    if arguments.compare:
        return _complexity.compare()
    if arguments.model is not None:
        return _complexity.describe(arguments)
    for title, value in facts():
        print(f"{title + ':':22} {value}")
    return 0


def _print_kernels(text: str) -> int:
    from resnet_cuda.bench import resources, tables

    try:
        found = resources.load()
    except (resources.Missing, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    counts = found.instantiations()
    table = resources.details(found, text) if text else resources.overview(found)
    if not table.rows:
        print(f"no kernel's name contains {text!r}; passes: {', '.join(counts)}", file=sys.stderr)
        return 2
    tables.show([table])
    print(f"{sum(counts.values())} kernels: {', '.join(f'{n} {c}' for n, c in counts.items())}")
    code = sum(kernel.code for kernel in found.kernels)
    seconds = sum(found.user_seconds.values())
    print(
        f"nvcc {found.nvcc} for {', '.join(found.architectures)}: {code / 2**20:.2f} MiB of machine code "
        f"by way of {found.ptx / 2**20:.2f} MiB of PTX, {found.objects} objects, {seconds:.0f} s of CPU time"
    )
    return 0


def facts() -> Iterator[tuple[str, str]]:
    """(title, value) pairs about this installation."""
    yield "resnet_cuda", resnet_cuda.__version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "torch", f"{torch.__version__}, CUDA {torch.version.cuda or 'not in this build'}"
    for name in _OPTIONAL:
        yield name, _version(name)
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            yield (
                f"GPU {i}",
                f"{properties.name}, sm_{properties.major}{properties.minor}, "
                f"{properties.total_memory / 2**30:.0f} GiB, "
                f"{properties.multi_processor_count} SMs{_supported(i)}",
            )
    else:
        yield "GPU", "none that torch can use"
    yield "CPU threads", str(torch.get_num_threads())
    yield "default backend", resnet_cuda.backend()
    if not _raw.is_built():
        yield "compiled extension", "not built: only the 'cpu' and 'reference' backends exist"
    for key, value in _raw.build_info().items():
        yield f"built: {key.replace('_', ' ')}", "none" if value is None else str(value)
    for name in _EMULATORS:
        yield name, "built" if (_raw.PACKAGE / name).exists() else "not built"


def _supported(index: int) -> str:
    """What the compiled kernels think of a GPU; nothing where there are none or all is well."""
    if not _raw.build_info().get("cuda_compiled"):
        return ""
    device = torch.device("cuda", index)
    try:
        _raw.require_code_for(device)
    except RuntimeError as error:
        return f"; not supported: {error}"
    return "" if _selection.has_tensor_cores(device) else "; SIMT kernels: tensor cores need sm_80"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
