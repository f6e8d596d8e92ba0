"""Weights of apex's bottlenecks and of InPlaceABN's networks, as this package's modules have them.

Functions over state dicts. Both packages scale by something else than gamma / sqrt(running_var + eps). Here gamma
becomes what gives the same scale at inference; nothing else changes but the layout of apex's explicit_nhwc filters.
Neither package is needed, and neither has been run against this: the tests restate in plain torch what they document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from resnet_cuda.nn import Bottleneck

State = dict[str, Tensor]

_VECTORS = ("weight", "bias", "running_mean", "running_var")


def from_apex(
    state: Mapping[str, Tensor], *, explicit_nhwc: bool = False, eps: float = 1e-5
) -> State:
    """The state dict of apex.contrib.bottleneck modules, for bottlenecks with `stride_in_1x1=True`.

    Their FrozenBatchNorm2d scales by weight / sqrt(running_var), without eps.

    Args:
        state: of one block, or of a network that is made of them: whatever has a `running_mean` is a frozen batch norm.
        explicit_nhwc: as apex was given it: filters are [K, R, S, C], not [K, C, R, S].
        eps: of the batch norms that will load the result.

    Returns:
        Copies under the same names, and `num_batches_tracked` for every batch norm.

    Raises:
        ValueError: batch norms that are incomplete or have a variance that is not positive; all are listed.
    """
    converted = _with_gammas(state, lambda weight: weight, 0.0, eps)
    if explicit_nhwc:
        converted = {
            key: value.permute(0, 3, 1, 2).contiguous() if value.dim() == 4 else value
            for key, value in converted.items()
        }
    return converted


def from_apex_bottleneck(
    source: nn.Module | Mapping[str, Tensor],
    *,
    stride: int | None = None,
    explicit_nhwc: bool | None = None,
    eps: float = 1e-5,
) -> Bottleneck:
    """apex.contrib.bottleneck.Bottleneck as a fused block, in evaluation mode with batch norms that want no gradient.

    In training mode its batch norms would use batch statistics: keep them in `eval()` for apex's frozen ones.

    Args:
        source: apex's module, or its state dict.
        stride: of the block; None: the module's. A state dict does not know it.
        explicit_nhwc: as in `from_apex`; None: the module's, or False.
        eps: of the block's batch norms.

    Raises:
        ValueError: stride missing, channels that no Bottleneck has, or as `from_apex`.
        RuntimeError: keys that are missing or unexpected; all are listed.
    """
    state = source.state_dict() if isinstance(source, nn.Module) else source
    stride = getattr(source, "stride", None) if stride is None else stride
    if not isinstance(stride, int):
        raise ValueError(
            f"stride={stride!r}: expected the block's stride, which a state dict does not know"
        )
    if explicit_nhwc is None:
        explicit_nhwc = bool(getattr(source, "explicit_nhwc", False))
    converted = from_apex(state, explicit_nhwc=explicit_nhwc, eps=eps)
    missing = [key for key in ("conv1.weight", "conv3.weight") if key not in converted]
    if missing:
        raise ValueError(f"state lacks {', '.join(missing)}: expected that of one apex bottleneck")
    width, inplanes = converted["conv1.weight"].shape[:2]
    outplanes = converted["conv3.weight"].shape[0]
    planes, rest = divmod(outplanes, Bottleneck.expansion)
    if rest or 64 * width % planes:
        raise ValueError(
            f"state has {width} channels inside and {outplanes} outside: expected 4 * planes outside and "
            "planes * base_width / 64 inside, for an integer base_width"
        )
    block = Bottleneck(
        inplanes,
        planes,
        stride,
        base_width=64 * width // planes,
        norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=eps),
        stride_in_1x1=True,
    ).to(converted["conv1.weight"])
    block.load_state_dict(converted, strict=True)
    for m in block.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.requires_grad_(False)
    return block.eval()


def from_inplace_abn(
    state: Mapping[str, Tensor],
    *,
    rename: Callable[[str], str] | None = None,
    inplace: bool = True,
    source_eps: float = 1e-5,
    eps: float = 1e-5,
) -> State:
    """The state dict of a network of InPlaceABN or ABN layers, for convolutions and batch norms.

    An InPlaceABN scales by (|weight| + eps) / sqrt(running_var + eps), an ABN as nn.BatchNorm2d does. Their activation
    is in no state dict. This package's blocks have a ReLU; for the leaky ReLU that both have by default, put
    `nn.LeakyReLU(0.01)` in its place: the block then computes the same, without being fused.

    Args:
        state: whatever has a `running_mean` in it is a batch norm.
        rename: gives each key the name that it is to have.
        inplace: InPlaceABN's gain, else ABN's.
        source_eps: of their layers.
        eps: of the batch norms that will load the result.

    Returns:
        Copies under the new names, and `num_batches_tracked` for every batch norm.

    Raises:
        ValueError: batch norms that are incomplete or have a negative variance, or keys that get one name; all are
            listed.
    """

    def gain(weight: Tensor) -> Tensor:
        return weight.abs() + source_eps if inplace else weight

    converted = _with_gammas(state, gain, source_eps, eps)
    if rename is None:
        return converted
    named: State = {}
    twice = []
    for key, value in converted.items():
        name = rename(key)
        if name in named:
            twice.append(f"{key} -> {name}")
        named[name] = value
    if twice:
        raise ValueError(f"rename gives names that others have: {', '.join(twice)}")
    return named


def _with_gammas(
    state: Mapping[str, Tensor], gain: Callable[[Tensor], Tensor], source_eps: float, eps: float
) -> State:
    """Copies, in which gamma / sqrt(running_var + eps) is gain(weight) / sqrt(running_var + source_eps)."""
    norms = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    faults = []
    for norm in norms:
        lacking = [name for name in _VECTORS if norm + name not in state]
        if lacking:
            faults.append(f"{norm[:-1] or 'the batch norm'} lacks {', '.join(lacking)}")
        elif not bool((state[norm + "running_var"].double() + source_eps > 0).all()):
            faults.append(f"{norm}running_var + {source_eps:g} is not positive everywhere")
    if faults:
        raise ValueError(f"state does not fit: {'; '.join(faults)}")
    converted = {key: value.detach().clone() for key, value in state.items()}
    for norm in norms:
        weight, variance = state[norm + "weight"], state[norm + "running_var"].double()
        ratio = torch.sqrt((variance + eps) / (variance + source_eps))
        converted[norm + "weight"] = (gain(weight.detach().double()) * ratio).to(weight.dtype)
        converted.setdefault(norm + "num_batches_tracked", torch.tensor(0))
    return converted
