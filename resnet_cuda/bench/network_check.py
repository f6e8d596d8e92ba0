"""Whether networks compute what they should: logits and gradients against float64, by the tolerance rule.

A candidate may be at most twice as far from float64 as torch's own eager network in the same dtype, in relative L2
norm. (Op by op, and element by element, `resnet_cuda.testing` holds the rule; here fifty layers have mixed.)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resnet_cuda.bench import networks

_FACTOR = 2.0
_FLOOR_ULPS = 2.0  # where torch happens to be exact
# One tensor may be further off than the network as a whole, but not by more than this.
_SINGLE_FACTOR = 4.0

Gradients = Mapping[str, Tensor]


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy, in float32 at least."""
    narrow = logits.dtype in (torch.bfloat16, torch.float16)
    return F.cross_entropy(logits.float() if narrow else logits, labels)


def exact_logits(network: str, dtype: torch.dtype, x: Tensor) -> Tensor:
    """What the network with weights of `dtype` gives for x [N, 3, H, W] in float64 [N, classes]."""
    module = networks.exact(network, dtype, x.device, training=False)
    with torch.inference_mode():
        logits: Tensor = module(x.double())
    return logits


def exact_gradients(network: str, dtype: torch.dtype, x: Tensor, labels: Tensor) -> Gradients:
    """The gradient of every parameter after one step in float64; activations inside blocks are recomputed."""
    module = networks.exact(network, dtype, x.device, training=True)
    for block in module.modules():
        if hasattr(block, "downsample"):
            block.forward = functools.partial(  # type: ignore[method-assign]
                checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False
            )
    loss_of(module(x.double()), labels).backward()
    return gradients_of(module)


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the gradients that `module`'s parameters have."""
    return {n: p.grad.detach().clone() for n, p in module.named_parameters() if p.grad is not None}


def check_logits(
    outputs: Mapping[str, Tensor], yardstick: str, exact: Tensor, dtype: torch.dtype
) -> dict[str, str]:
    """Complaints by candidate. Outputs [N, classes]; `exact` has the first few rows.

    The rows beyond those are compared with the yardstick's: within the rule, the two differ by the sum of their errors
    at most.
    """
    if yardstick not in outputs:
        return {name: f"cannot be judged without {yardstick}" for name in outputs}
    rows, floor = len(exact), _FLOOR_ULPS * torch.finfo(dtype).eps
    torchs = outputs[yardstick]
    allowed = max(_FACTOR * distance(torchs[:rows], exact), floor)
    complaints = {}
    for name, logits in outputs.items():
        error = distance(logits[:rows], exact)
        if not error <= allowed:
            complaints[name] = _complaint("logits", error, allowed, torchs[:rows], exact)
        elif not (apart := distance(logits, torchs)) <= 2 * allowed:
            complaints[name] = (
                f"logits beyond the first {rows} images are off: {apart:.2e} from {yardstick}'s in relative L2 norm, "
                f"{2 * allowed:.2e} is allowed"
            )
    return complaints


def check_gradients(
    outputs: Mapping[str, Gradients], yardstick: str, exact: Gradients, floor: float
) -> dict[str, str]:
    """Complaints by candidate about the gradients of all parameters, each in relative L2 norm.

    Args:
        floor: a relative error that rounding alone can cause (a flipped ReLU gate).
    """
    if yardstick not in outputs:
        return {name: f"cannot be judged without {yardstick}" for name in outputs}
    torchs = {name: distance(outputs[yardstick][name], exact[name]) for name in exact}
    torchs_mean = _root_mean_square(torchs)
    allowed = max(_FACTOR * torchs_mean, floor)
    complaints = {}
    for candidate, gradients in outputs.items():
        if gradients.keys() != exact.keys():
            different = sorted(gradients.keys() ^ exact.keys())
            complaints[candidate] = f"has other gradients than the float64 network: {different[:4]}"
            continue
        errors = {name: distance(gradients[name], exact[name]) for name in exact}
        mean = _root_mean_square(errors)
        worst = max(errors, key=lambda name: errors[name] - _SINGLE_FACTOR * torchs[name])
        single = _SINGLE_FACTOR * max(torchs[worst] + torchs_mean, floor)
        if not mean <= allowed:
            complaints[candidate] = (
                f"gradients are off by {mean:.2e} in relative L2 norm (over {len(exact)} parameters), {allowed:.2e} is "
                f"allowed (torch's own: {torchs_mean:.2e})"
            )
        elif not errors[worst] <= single:
            complaints[candidate] = (
                f"the gradient of {worst} is off by {errors[worst]:.2e} in relative L2 norm, {single:.2e} is allowed "
                f"(torch's own: {torchs[worst]:.2e})"
            )
    return complaints


def distance(actual: Tensor, exact: Tensor) -> float:
    """The L2 norm of the difference over that of `exact`; infinite or NaN where a value is."""
    if actual.shape != exact.shape:
        return math.inf
    actual, exact = actual.detach().double(), exact.detach().double()
    norm = exact.norm()
    return ((actual - exact).norm() / norm).item() if norm > 0 else actual.norm().item()


def _root_mean_square(errors: Mapping[str, float]) -> float:
    return math.sqrt(sum(e * e for e in errors.values()) / max(len(errors), 1))


def _complaint(what: str, error: float, allowed: float, torchs: Tensor, exact: Tensor) -> str:
    return (
        f"{what} are off by {error:.2e} in relative L2 norm, {allowed:.2e} is allowed "
        f"(torch's own: {distance(torchs, exact):.2e})"
    )
