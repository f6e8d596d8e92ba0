"""CUDA tensors without values on a machine without a GPU, and gradients of what is computed with them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

_SOURCE = Path(__file__).with_name("cuda_guard.cpp")


@cache
def make_guard(folder: Path) -> None:
    """Has torch make CUDA tensors without values in this process, whatever it was built for.

    Raises:
        subprocess.CalledProcessError: the C++ compiler, `c++`, failed.
    """
    if torch.version.cuda is not None or torch.cuda.is_available():
        return
    torch_folder, library = Path(torch.__file__).parent, folder / "cuda_guard.so"
    options = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder / 'include'}"]
    libraries = [f"-L{torch_folder / 'lib'}", "-lc10"]
    subprocess.run(["c++", *options, _SOURCE, *libraries, "-o", library], check=True)
    torch.ops.load_library(library)


def gradients(z: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Of the leaves, for a gradient like z, without torch's engine: that asks for CUDA streams, which builds for CPUs
    do not have. It goes through the same nodes."""
    pending: dict[Any, dict[int, Tensor]] = {z.grad_fn: {z.output_nr: torch.empty_like(z)}}
    found: dict[int, Tensor] = {}
    while pending:
        node = max(pending, key=lambda n: n._sequence_nr())  # whatever made it is older
        given = pending.pop(node)
        for (after, index), g in _passed_on(node, given):
            if hasattr(after, "variable"):
                g = g.sum_to_size(after.variable.shape)
                found[id(after.variable)] = found.get(id(after.variable), 0) + g
            else:
                slots = pending.setdefault(after, {})
                slots[index] = slots.get(index, 0) + g
    return [found.get(id(leaf)) for leaf in leaves]


def _passed_on(node: Any, given: dict[int, Tensor]) -> list[tuple[tuple[Any, int], Tensor]]:
    """((the node behind, which of its outputs), the gradient of that)."""
    incoming = [given.get(i) for i in range(len(node._input_metadata))]
    edges = node.next_functions
    with torch.no_grad():
        if isinstance(node, BackwardCFunction):  # it has edges for its tensors alone
            results = [
                g
                for g, needed in zip(node.apply(*incoming), node.needs_input_grad, strict=True)
                if needed
            ]
            edges = [edge for edge in edges if edge[0] is not None]
        else:
            results = node(*incoming)
            results = list(results) if isinstance(results, tuple) else [results]
    pairs = zip(edges, results, strict=True)
    return [(edge, g) for edge, g in pairs if edge[0] is not None and g is not None]
