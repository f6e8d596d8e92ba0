"""A residual branch on the CPU that is nothing but its parts' own calls, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from resnet_cuda.ops._branch import Identity, ZeroPad
from resnet_cuda.ops._interface import Backend
from resnet_cuda.ops._unit_call import run_unit_plainly
from resnet_cuda.ops.bn_relu import run_norm
from resnet_cuda.ops.conv_unit import ConvUnit, NormUnit

if TYPE_CHECKING:
    from resnet_cuda.ops.residual_branch import Shortcut


def moving_in_row(
    plain: Backend,
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    entry: NormUnit | None,
) -> list[ConvUnit | NormUnit] | None:
    """Whose running statistics move, where the branch is nothing but its parts' own calls: in a dtype that the CPU
    computes in, and of this rank. None elsewhere."""
    if plain.inference_dtype(x.dtype) != x.dtype:
        return None
    moving = []
    for part in (*units, shortcut, entry):
        if part is None or isinstance(part, Identity):
            continue
        if isinstance(part, ZeroPad) or part.process_group is not None:
            return None
        if part.training:
            moving.append(part)
    return moving


def row_of_calls(
    plain: Backend,
    x: Tensor,
    units: Sequence[ConvUnit],
    shortcut: Shortcut | None,
    entry: NormUnit | None,
    relu: bool,
    donate_input: bool,
) -> Tensor:
    """Unit by unit, each a call of its own, on a backend that is `_backend.undisturbed`."""
    run = run_unit_plainly
    z = entered = x if entry is None else run_norm(x, entry, None, True, restores=False)
    for unit in units[:-1]:
        z = run(plain, z, unit, None, unit.relu, False, False)
    if shortcut is None:
        return run(plain, z, units[-1], None, relu, False, False)
    if isinstance(shortcut, ConvUnit):
        residual, donates = run(plain, entered, shortcut, None, False, False, False), True
    else:
        # A branch of one unit convolves the very tensor that it adds: that one must stay whole.
        residual, donates = x, donate_input and x is not z
    return run(plain, z, units[-1], residual, relu, donates, False)
