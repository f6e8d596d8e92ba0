"""Which implementation serves a call: our CUDA kernels, ATen and oneDNN on the CPU, plain torch,
or the emulated kernels.

The choice is one process-wide setting (threads see the same one), so that `torch.compile` can guard on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd import forward_ad

from resnet_cuda import _compiler

if TYPE_CHECKING:
    from resnet_cuda.ops._interface import Backend

NAMES = ("cuda", "cpu", "reference", "emulated")

_choice: str | None = None
_instances: dict[str, Backend] = {}


def backend() -> str:
    """The name of the backend that serves the next call: the explicit choice, else "cuda" where
    there is a GPU, else "cpu"."""
    if _choice is not None:
        return _choice
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Selects the backend of the enclosed calls; without it, CUDA tensors use "cuda" and all others "cpu".

    Args:
        name: "cuda" (our kernels on the GPU), "cpu" (ATen and oneDNN), "reference" (plain
            differentiable torch, any device) or "emulated" (our kernels' own source executed on the CPU).

    Raises:
        ValueError: the name is not one of these.
        RuntimeError: the backend was not built (the message tells how to build it).
    """
    global _choice
    if name not in NAMES:
        raise ValueError(f"backend is {name!r}; accepted: {', '.join(map(repr, NAMES))}")
    instance(name)
    previous, _choice = _choice, name
    try:
        yield
    finally:
        _choice = previous


def instance(name: str) -> Backend:
    """The backend object of that name, made on first use."""
    found = _instances.get(name)
    if found is None:
        found = _instances[name] = _make(name)
    return found


def resolve(tensor: Tensor) -> Backend:
    """The backend object for a call whose first argument is `tensor`; "reference" where `is_transformed()`."""
    name = _choice
    if name is None:
        name = "cuda" if tensor.is_cuda else "cpu"
    elif name == "cuda":
        if not tensor.is_cuda:
            raise RuntimeError(f'x is on {tensor.device}; the backend "cuda" accepts CUDA tensors')
    elif tensor.is_cuda and name != "reference":
        raise RuntimeError(f'x is on {tensor.device}; the backend "{name}" accepts CPU tensors')
    return instance("reference" if is_transformed() else name)


def undisturbed(tensor: Tensor) -> Backend | None:
    """The CPU's backend where it serves such a call and nothing else has a say in it: no tracing or compiling, no
    transform, no autocast, no deterministic mode, no other choice. None elsewhere."""
    if (
        type(tensor) is Tensor
        and tensor.is_cpu
        and (_choice is None or _choice == "cpu")
        and not torch._C._is_any_autocast_enabled()
        and not torch._C._are_functorch_transforms_active()
        and forward_ad._current_level < 0
        and not torch.compiler.is_compiling()
        and not torch._C._get_deterministic_algorithms()
    ):
        return _instances.get("cpu") or instance("cpu")
    return None


def is_transformed(tensor: Tensor | None = None) -> bool:
    """Whether `torch.vmap` or forward-mode differentiation is to follow what is computed here (from `tensor`).

    Neither knows our kernels and oneDNN's: the one would refuse them, the other take their results for
    constants. Both follow plain torch. (Reverse mode is `torch.autograd.Function`'s, `torch.func.grad` included,
    but where torch.compile traces that it takes every result for a constant.)
    """
    if torch.compiler.is_compiling():
        return _is_inside_transform()
    if forward_ad._current_level >= 0:
        return True
    functorch = torch._C._functorch
    if tensor is not None and functorch.is_legacy_batchedtensor(tensor):
        return True  # by torch.autograd.grad(is_grads_batched=True), which is not of torch.func
    if not torch._C._are_functorch_transforms_active():
        return False
    unknown = (functorch.TransformType.Vmap, functorch.TransformType.Jvp)
    return any(transform.key() in unknown for transform in functorch.get_interpreter_stack() or ())


@_compiler.constant_result  # torch.compile guards on both
def _is_inside_transform() -> bool:
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _make(name: str) -> Backend:
    if name == "cpu":
        from resnet_cuda.ops._aten import AtenBackend

        return AtenBackend()
    if name == "reference":
        from resnet_cuda.ops._interface import ReferenceBackend

        return ReferenceBackend()
    from resnet_cuda.ops._kernels import CudaBackend, EmulatedBackend

    return CudaBackend() if name == "cuda" else EmulatedBackend()


def replace_instance(name: str, new: Backend | None) -> Backend | None:
    """Puts another object behind a backend's name (None: made anew on the next use); returns the
    one before."""
    before = _instances.pop(name, None)
    if new is not None:
        _instances[name] = new
    return before
