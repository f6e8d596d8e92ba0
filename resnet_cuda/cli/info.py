"""Print versions, devices and what was built."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import resnet_cuda

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
    built = build_info()
    if built is None:
        yield "compiled ops", "not built: only the 'cpu' and 'reference' backends exist"
    else:
        for key, value in built.items():
            yield f"built: {key.replace('_', ' ')}", "none" if value is None else str(value)
    for name in _EMULATORS:
        present = (Path(resnet_cuda.__file__).parent / name).exists()
        yield name, "built" if present else "not built"


def build_info() -> dict[str, Any] | None:
    """What the compiled extension says about its build; None where there is no extension."""
    try:
        import resnet_cuda._C  # noqa: F401
    except ImportError:
        return None
    info: dict[str, Any] = json.loads(torch.ops.resnet_cuda._build_info())
    return info


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
