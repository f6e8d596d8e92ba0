"""Whether networks compute what they should: logits and gradients against float64, by the tolerance rule.

A candidate may be at most twice as far from float64 as torch's own eager network in the same dtype, in relative L2
norm. (Op by op, and element by element, `resnet_cuda.testing` holds the rule; here fifty layers have mixed.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_cuda.bench import networks
from resnet_cuda.bench.environment import untuned
from resnet_cuda.bench.workload import Candidate

FACTOR = 2.0
_FLOOR_ULPS = 2.0  # where torch happens to be exact
# One tensor of many, or one element, may be further off than all together, but not by more than this.
SINGLE_FACTOR = 4.0

Gradients = Mapping[str, Tensor]
T = TypeVar("T")


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, in float32 at least."""
    narrow = logits.dtype in (torch.bfloat16, torch.float16)
    return F.cross_entropy(logits.float() if narrow else logits, labels)


def exact_logits(network: str, dtype: torch.dtype, x: Tensor) -> Tensor:
    """What the network with weights of `dtype` gives for x [N, 3, H, W] in float64 [N, classes]."""
    module = networks.exact(network, dtype, x.device, training=False)
    with torch.inference_mode(), untuned():
        logits: Tensor = module(x.double())
    return logits


def exact_gradients(network: str, dtype: torch.dtype, x: Tensor, labels: Tensor) -> Gradients:
    """The gradient of every parameter after one step in float64; activations inside blocks are recomputed."""
    module = networks.exact(network, dtype, x.device, training=True)
    for block in module.modules():
        if hasattr(block, "downsample"):
            block.forward = functools.partial(
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
    with untuned():
        loss_of(module(x.double()), labels).backward()
    return gradients_of(module)


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that `module`'s parameters have."""
    return {n: p.grad.detach().clone() for n, p in module.named_parameters() if p.grad is not None}


class Check:
    """A workload's check.

    Args:
        yardstick: the candidate whose error is torch's own. It is asked to run once more where the check of others
            comes without its output (it needs memory of its own, say).
        exact: gives the float64 result; called once.
        rule: (output, the yardstick's output, the float64 result) -> a complaint, or "".
    """

    def __init__(
        self, yardstick: Candidate, exact: Callable[[], T], rule: Callable[[T, T, T], str]
    ) -> None:
        self._yardstick, self._rule = yardstick, rule
        self._exact = functools.cache(exact)
        self._torchs: Any = None

    def __call__(self, outputs: Mapping[str, Any]) -> dict[str, str]:
        if self._torchs is None:
            torchs = outputs.get(self._yardstick.name)
            self._torchs = self._yardstick.prepare()() if torchs is None else torchs
        complaints = {
            name: self._rule(output, self._torchs, self._exact())
            for name, output in outputs.items()
        }
        return {name: text for name, text in complaints.items() if text}


@dataclass(frozen=True)
class LogitsRule:
    """For logits [N, classes] of which the first few rows are known in float64.

    The rows beyond are compared with torch's: within the rule, the two differ by the sum of their errors at most.
    """

    dtype: torch.dtype

    def __call__(self, logits: Tensor, torchs: Tensor, exact: Tensor) -> str:
        rows = len(exact)
        own = distance(torchs[:rows], exact)
        allowed = max(FACTOR * own, _FLOOR_ULPS * torch.finfo(self.dtype).eps)
        error, apart = distance(logits[:rows], exact), distance(logits, torchs)
        if not error <= allowed:
            return _complaint("logits are", error, allowed, own)
        if not apart <= 2 * allowed:
            return (
                f"logits beyond the first {rows} images are {apart:.2e} apart from torch's in relative L2 norm, where "
                f"{2 * allowed:.2e} is allowed"
            )
        return ""


@dataclass(frozen=True)
class GradientsRule:
    """For the gradients of all parameters, each in relative L2 norm.

    Args:
        floor: a relative error that rounding alone can cause (flipped ReLU gates).
    """

    floor: float

    def __call__(self, gradients: Gradients, torchs: Gradients, exact: Gradients) -> str:
        if gradients.keys() != exact.keys():
            different = sorted(gradients.keys() ^ exact.keys())
            return f"has other gradients than the float64 network, at {different[:4]}"
        own = {name: distance(torchs[name], exact[name]) for name in exact}
        errors = {name: distance(gradients[name], exact[name]) for name in exact}
        mean, own_mean = _root_mean_square(errors), _root_mean_square(own)
        allowed = max(FACTOR * own_mean, self.floor)
        if not mean <= allowed:
            return _complaint(f"gradients of {len(exact)} tensors are", mean, allowed, own_mean)
        for name, error in errors.items():
            single = SINGLE_FACTOR * max(own[name] + own_mean, self.floor)
            if not error <= single:
                return _complaint(f"the gradient of {name} is", error, single, own[name])
        return ""


def distance(actual: Tensor, exact: Tensor) -> float:
    """The L2 norm of the difference over that of `exact`; infinite or NaN where a value is."""
    if actual.shape != exact.shape:
        return math.inf
    actual, exact = actual.detach().double(), exact.detach().double()
    norm = exact.norm()
    return ((actual - exact).norm() / norm).item() if norm > 0 else actual.norm().item()


def _root_mean_square(errors: Mapping[str, float]) -> float:
    return math.sqrt(sum(e * e for e in errors.values()) / max(len(errors), 1))


def _complaint(what: str, error: float, allowed: float, own: float) -> str:
    return f"{what} off by {error:.2e} in relative L2 norm, where {allowed:.2e} is allowed (torch's own: {own:.2e})"
