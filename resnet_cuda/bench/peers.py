"""Who we are measured against, and which of them are here."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from types import ModuleType
from typing import NamedTuple

import torch

from resnet_cuda.bench.workload import Absent


class Package(NamedTuple):
    """A peer outside torch: what pip calls it, what `import` calls it, and what it offers."""

    name: str
    module: str
    offers: str


PACKAGES = (
    Package(
        "torchvision", "torchvision.models", "ResNet-18/50/152 and ResNeXt-50, eager and compiled"
    ),
    Package("timm", "timm", "its own ResNets"),
    Package(
        "apex", "apex.contrib.bottleneck", "fused frozen-batch-norm Bottleneck, NHWC batch norm"
    ),
    Package("inplace_abn", "inplace_abn", "activated batch norm in place"),
    Package("tensorrt", "tensorrt", "inference engines"),
    Package("torch_tensorrt", "torch_tensorrt", "inference engines from torch modules"),
    Package("nvidia-cudnn-frontend", "cudnn", "cuDNN's graph API: fused convolutions"),
)

_keep_alive: list[torch.library.Library] = []


def require(name: str) -> ModuleType:
    """The module of a peer in PACKAGES, by its name there.

    Raises:
        Absent: it cannot be imported; the message says why.
    """
    package = {p.name: p for p in PACKAGES}[name]
    try:
        if name == "torchvision":
            return torchvision_models()
        if name == "timm":
            with suppress(Exception):  # timm imports torchvision itself, and says so if it cannot
                torchvision_models()
        return importlib.import_module(package.module)
    except ModuleNotFoundError as error:
        if error.name is not None and package.module.startswith(error.name):
            raise Absent(f"{name} is not installed") from error
        raise Absent(f"{name} cannot be imported: {error}") from error
    except Exception as error:  # a package built for another torch may raise anything
        raise Absent(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def is_here(name: str) -> bool:
    """Whether `require` finds it."""
    try:
        require(name)
    except Absent:
        return False
    return True


def version(name: str) -> str:
    """What the package says about itself. Raises Absent as `require`."""
    root = require(name).__name__.partition(".")[0]
    return str(getattr(sys.modules[root], "__version__", "unknown"))


def torchvision_models() -> ModuleType:
    """torchvision's models. They work without its C++ ops, which a build for another torch cannot load.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error) or _keep_alive:
            raise
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for op in ("nms", "qnms"):
            library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _keep_alive.append(library)
        return importlib.import_module("torchvision.models")


def presence() -> list[dict[str, str]]:
    """For the report: every peer outside torch, its version, or why it is absent ("" where it is here)."""
    rows = []
    for package in PACKAGES:
        found, absent = "", ""
        try:
            found = version(package.name)
        except Absent as error:
            absent = str(error)
        rows.append(
            {"name": package.name, "offers": package.offers, "version": found, "absent": absent}
        )
    return rows
