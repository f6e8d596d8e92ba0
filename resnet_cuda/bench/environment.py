"""What a run ran on and with, and the settings that all of it is measured under."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

import resnet_cuda
from resnet_cuda import _raw
from resnet_cuda.bench.device import Device, cpu_name

_PACKAGES = ("triton", "torchvision", "timm", "numpy")


def environment(device: Device) -> dict[str, Any]:
    """For the report: the device's facts, and how the figures came about. No paths, no names of hosts or users."""
    facts = device.facts()
    with settings(device):
        flags = _flags()
    return {
        **facts,
        "versions": _versions(facts.get("driver")),
        "host": _host(),
        "clocks": device.clocks(),
        "build": _raw.build_info(),
        **revision(),
        "flags": flags,
    }


@contextmanager
def settings(device: Device) -> Iterator[None]:
    """What benchmarks want in force, for the enclosed calls: cuDNN tries its algorithms (peers at their best), float32
    is float32 (no TF32), and the number of threads is the one at the start, whatever a peer does to it."""
    threads = torch.get_num_threads()
    precision = torch.get_float32_matmul_precision()
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=True, deterministic=False, allow_tf32=False
    ):
        try:
            torch.set_float32_matmul_precision("highest")
            torch.set_num_threads(threads)
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            torch.set_num_threads(threads)


@contextmanager
def untuned() -> Iterator[None]:
    """For what is computed once, in float64, say: cuDNN takes the algorithm that it thinks best and tries no others,
    which takes many times as long as the computation."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _flags() -> dict[str, Any]:
    cudnn = torch.backends.cudnn
    getters: dict[str, Callable[[], Any]] = {
        "cudnn_enabled": lambda: cudnn.enabled,
        "cudnn_benchmark": lambda: cudnn.benchmark,
        "cudnn_deterministic": lambda: cudnn.deterministic,
        "cudnn_allow_tf32": lambda: cudnn.allow_tf32,
        "matmul_allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled,
        "threads": torch.get_num_threads,
    }
    return {name: _read(get) for name, get in getters.items()}


def _read(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except RuntimeError as error:  # some versions of torch refuse to tell about TF32
        return f"unknown: {error}"


def _versions(driver: str | None) -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version()
    return {
        "resnet_cuda": resnet_cuda.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "cudnn": None if cudnn is None else str(cudnn),
        "driver": driver,
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _host() -> dict[str, Any]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "os": f"{platform.system()} {platform.release().partition('-')[0]}",
        "libc": " ".join(platform.libc_ver()).strip(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * page,
    }


def revision() -> dict[str, Any]:
    """The checkout's commit, and whether tracked files differ from it; None outside of a checkout, also where the
    package is merely installed inside of someone else's."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(_raw.PACKAGE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
