"""Whether what a candidate computed is right: the tolerance rule for every candidate.

The truth is the plain torch function in float64 on the same device; a result may be twice as far from it as the
plain function in the workload's dtype, by relative L2 norm. The largest of many rounding errors is luck, and more so
where an algorithm differs (oneDNN's take folded weights): a single element may be four times as far off as torch's
worst. A result in float64 must agree to a tight tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resnet_cuda.bench.environment import untuned
from resnet_cuda.bench.network_check import FACTOR, SINGLE_FACTOR, GradientsRule, distance
from resnet_cuda.testing.numeric import FLOOR_ULPS

FLOAT64_TOLERANCE = 1e-10  # of the largest value


class Given(dict[str, Tensor]):
    """The named inputs that all candidates of a workload share."""

    _sums: Mapping[str, int] | None = None

    def to(self, dtype: torch.dtype) -> Given:
        """All tensors in `dtype`."""
        return Given((name, tensor.to(dtype)) for name, tensor in self.items())

    def nchw(self) -> Given:
        """In NCHW memory."""
        return Given((name, tensor.contiguous()) for name, tensor in self.items())

    def fresh(self) -> Given:
        """With running statistics of one's own, which training moves."""
        return Given((name, t.clone() if "running_" in name else t) for name, t in self.items())

    def sealed(self) -> Given:
        """This, from now on able to tell what was written to. Kernels write past torch's version counters."""
        self._sums = self._content()
        return self

    def written(self) -> list[str]:
        """The names of the tensors whose content has changed since `sealed`."""
        assert self._sums is not None
        return [name for name, total in self._content().items() if total != self._sums[name]]

    def _content(self) -> dict[str, int]:
        integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
        bits = {name: tensor.view(integers[tensor.itemsize]) for name, tensor in self.items()}
        return {name: int(tensor.sum(dtype=torch.int64)) for name, tensor in bits.items()}


@dataclass(frozen=True)
class Reading:
    """How one candidate's output is compared.

    read: what it returned -> the tensors of `Judge.plain`, in order.
    channels_last: False where it computes in NCHW: there torch's own error may be another.
    """

    read: Callable[[Any], Sequence[Tensor | None]] | None = None
    channels_last: bool = True


@dataclass
class Judge:
    """`Workload.check`: {candidate: its output} -> {candidate: complaint} for those that are wrong.

    Args:
        given: the sealed inputs, as every candidate gets them.
        plain: the same in plain torch, in the dtype of what it is given -> tensors by name.
        readings: by candidate; default: the output is the tensors themselves.
        chained: names of outputs that are gradients through several ReLUs. Which inner gates rounding flips, each
            moving single elements far, is luck: such gradients are judged like a network's.
        gate: the relative change of those when one gate flips.
    """

    given: Callable[[], Given]
    plain: Callable[[Given], Mapping[str, Tensor]]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    chained: Sequence[str] = ()
    gate: float = 0.0

    def __call__(self, outputs: dict[str, object]) -> dict[str, str]:
        if not outputs:
            return {}
        given = self.given()
        if written := given.written():  # everything below would be compared with something else
            return dict.fromkeys(outputs, f"a candidate wrote to the inputs {', '.join(written)}")
        with untuned():
            exact = dict(self.plain(given.to(torch.float64)))
        for name, truth in exact.items():
            if not truth.any() or not truth.isfinite().all():
                problem = "be finite" if truth.any() else "have other values than zero"
                text = f"{name} should {problem}: such inputs prove nothing"
                return dict.fromkeys(outputs, text)
        torchs: dict[bool, Mapping[str, Tensor]] = {}
        complaints = {}
        for name, output in outputs.items():
            reading = self.readings.get(name, Reading())
            layout = reading.channels_last
            if layout not in torchs:
                torchs[layout] = self.plain(given if layout else given.nchw())
            if complaint := self._complaint(output, reading, torchs[layout], exact):
                complaints[name] = complaint
        return complaints

    def _complaint(
        self,
        output: object,
        reading: Reading,
        torchs: Mapping[str, Tensor],
        exact: Mapping[str, Tensor],
    ) -> str:
        try:
            tensors = reading.read(output) if reading.read else as_tensors(output)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            return f"the output cannot be read: {error}"
        if len(tensors) != len(exact):
            return f"returned {len(tensors)} tensors, not {len(exact)} ({', '.join(exact)})"
        actual: dict[str, Tensor] = {}
        for (name, truth), tensor in zip(exact.items(), tensors, strict=True):
            if not isinstance(tensor, Tensor):
                return f"{name} is missing"
            if tensor.shape != truth.shape:
                return f"{name} has shape {list(tensor.shape)}, not {list(truth.shape)}"
            if tensor.dtype != torchs[name].dtype:
                return f"{name} has dtype {tensor.dtype}, torch's {torchs[name].dtype}"
            if not tensor.isfinite().all():
                return f"{name} is not finite"
            actual[name] = tensor
        # Gates that float64 flips are too rare to allow for.
        chained = [name for name in self.chained if torchs[name].dtype != torch.float64]
        for name, truth in exact.items():
            if name not in chained and (text := _compare(name, actual[name], torchs[name], truth)):
                return text
        if not chained:
            return ""
        return GradientsRule(self.gate)(
            *({name: tensors[name] for name in chained} for tensors in (actual, torchs, exact))
        )


def as_tensors(output: object) -> Sequence[Tensor]:
    """A tensor or a sequence of them -> a sequence.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(output, Tensor):
        return (output,)
    if isinstance(output, (tuple, list)):
        return output
    raise TypeError(f"it is a {type(output).__name__}, neither a tensor nor a tuple of tensors")


def _compare(name: str, actual: Tensor, torchs: Tensor, exact: Tensor) -> str:
    """A complaint, or ""."""
    largest = exact.abs().max().item()
    worst, torchs_worst = ((t.double() - exact).abs().max().item() for t in (actual, torchs))
    if actual.dtype == torch.float64:
        tight = FLOAT64_TOLERANCE * largest
        return "" if worst <= tight else _off(name, actual, worst, tight, torchs_worst)
    floor = FLOOR_ULPS[actual.dtype] * torch.finfo(actual.dtype).eps
    error, torchs_error = distance(actual, exact), distance(torchs, exact)
    allowed = max(FACTOR * torchs_error, floor)
    if not error <= allowed < math.inf:
        return _off(name, actual, error, allowed, torchs_error, " in relative L2 norm")
    allowed = max(SINGLE_FACTOR * torchs_worst, floor * largest)
    if not worst <= allowed:
        return _off(name, actual, worst, allowed, torchs_worst, " in one element")
    return ""


def _off(
    name: str, actual: Tensor, error: float, allowed: float, torchs: float, where: str = ""
) -> str:
    return (
        f"{name} ({str(actual.dtype).removeprefix('torch.')}) is off by {error:.2e}{where}, where {allowed:.2e} is "
        f"allowed (torch's own: {torchs:.2e})"
    )
