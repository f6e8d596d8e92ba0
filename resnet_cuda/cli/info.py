"""Print versions, devices and what was built."""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from collections.abc import Iterator

import torch

import resnet_cuda
from resnet_cuda import _raw

_EMULATORS = ("librnc_emulated.so", "librnc_emulated_checked.so")
_OPTIONAL = ("torchvision", "timm", "scikit-learn", "matplotlib", "rich")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(arguments: argparse.Namespace) -> int:
    for title, value in facts():
        print(f"{title + ':':22} {value}")
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
                f"{properties.multi_processor_count} SMs",
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


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
