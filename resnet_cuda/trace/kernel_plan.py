"""Which kernel multiplies, as the launchers plan it from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from resnet_cuda import _fakes, _selection

Shape = tuple[int, int, int, int]
_CPU = torch.device("cpu")  # stands for the GPU that the emulator plays


class Convolution(NamedTuple):
    """A product in a pass, as a convolution of x [N, C, H, W] with weight [K, C / groups, R, S].

    kind: "fprop", "dgrad" or "wgrad"; or, of a 1x1, "product" (wgrad's sum over pixels, kept in
    float64) or "gram" (x by itself). The kernel depends on three things more: whether two sets of
    accumulators or two tensors of an operand have to fit (narrow), whether x is normalised on load,
    and whether sums are taken of dgrad's result.
    """

    kind: str
    x: Shape
    weight: Shape
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    narrow: bool = False
    normalises: bool = False
    takes_sums: bool = False
    max_pool: bool = False  # at inference the kernel also pools

    @property
    def output(self) -> Shape:
        return _fakes.conv_output_shape(
            self.x, self.weight, self.stride, self.padding, self.dilation
        )

    @property
    def flops(self) -> int:
        """Two per multiply-add; of a symmetric matrix one half."""
        n, k, p, q = self.output
        depth = self.weight[1] * self.weight[2] * self.weight[3]
        if self.kind == "gram":
            return n * p * q * depth * (depth + 1)
        return 2 * n * p * q * k * depth

    @property
    def elements_read(self) -> int:
        """Of x: a 1x1 of stride 2 touches every fourth pixel."""
        n, c, h, w = self.x
        _, _, p, q = self.output
        return n * c * min(h, p * self.weight[2]) * min(w, q * self.weight[3])


class Planned(NamedTuple):
    """kernel: of the convolution passes' own, "conv_fprop_sm80_gemm", say."""

    kernel: str
    tile: tuple[int, int, int] | None
    why: str
    is_tf32: bool


_UNKNOWN = Planned(
    "unknown",
    None,
    "resnet_cuda._host is not built, so the kernels' plan cannot be read",
    False,
)


def planned(convolution: Convolution, dtype: torch.dtype, device: torch.device = _CPU) -> Planned:
    """Under torch's present switch for TF32; without the compiled host module, that fact."""
    try:
        from resnet_cuda import _host
    except ImportError:
        return _UNKNOWN
    kind, x, weight, *_ = convolution
    options = dict(list(convolution._asdict().items())[3:])
    name = str(dtype).removeprefix("torch.")
    plan = _host.conv_plan(
        *(kind, name, x, weight),
        **options,
        allow_tf32=_selection.allows_tf32(),
        capability=_selection.capability_of(device),
        multiprocessors=_selection.multiprocessors_of(device),
    )
    return _of_dict(plan, dtype)


def planned_block(
    x_size: Shape, reduced: int, dtype: torch.dtype, device: torch.device = _CPU
) -> Planned:
    """The same for a whole bottleneck with an identity shortcut, x [N, C, H, W] reduced to so many channels."""
    try:
        from resnet_cuda import _host
    except ImportError:
        return _UNKNOWN
    plan = _host.bottleneck_block_plan(
        *(str(dtype).removeprefix("torch."), x_size, reduced),
        capability=_selection.capability_of(device),
        multiprocessors=_selection.multiprocessors_of(device),
    )
    return _of_dict(plan, dtype)


def float64_product(stem: str, device: torch.device = _CPU) -> str:
    """The kernel of a float64 product between the passes over pixels."""
    return f"{stem}_{'sm80' if _selection.has_tensor_cores(device) else 'simt'}_gemm"


def _of_dict(plan: Mapping[str, Any], dtype: torch.dtype) -> Planned:
    if plan["error"] is not None:
        return Planned("none", None, plan["error"], False)
    why = plan["why"]
    if dtype == torch.float32:
        switch = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        why += f" (torch.backends.cudnn.conv.fp32_precision is {switch!r})"
    return Planned(plan["kernel"], tuple(plan["tile"]), why, plan["tf32"])
