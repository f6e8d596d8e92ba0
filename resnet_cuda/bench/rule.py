"""Whether what a candidate computed is right: the tolerance rule of `resnet_cuda.testing` for every candidate.

The truth is the plain torch function in float64 on the same device; a result may be twice as far from it as the
plain function in the candidate's own dtype. A result in float64 must agree to a tight tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resnet_cuda.bench.environment import untuned
from resnet_cuda.bench.network_check import GradientsRule
from resnet_cuda.testing import check_gradient_rule, check_rule

FLOAT64_TOLERANCE = 1e-10  # of the largest value


class Given(dict[str, Tensor]):
    """The named inputs that all candidates of a workload share."""

    def to(self, dtype: torch.dtype | None) -> Given:
        """All floating tensors in `dtype`; None leaves it."""
        return Given(
            (name, t.to(dtype) if dtype and t.is_floating_point() else t)
            for name, t in self.items()
        )

    def nchw(self) -> Given:
        """In NCHW memory."""
        return Given((name, tensor.contiguous()) for name, tensor in self.items())

    def fresh(self) -> Given:
        """With running statistics of one's own, which training moves."""
        return Given((name, t.clone() if "running_" in name else t) for name, t in self.items())

    def versions(self) -> dict[str, int]:
        """How often each tensor was written to."""
        return {name: tensor._version for name, tensor in self.items()}


@dataclass(frozen=True)
class Reading:
    """How one candidate's output is compared.

    read: what it returned -> the tensors of `Judge.outputs`, in order.
    dtype: in which it computes where that is not the workload's, e.g. under autocast.
    channels_last: False where it computes in NCHW: there torch's own error may be another.
    """

    read: Callable[[Any], Sequence[Tensor | None]] | None = None
    dtype: torch.dtype | None = None
    channels_last: bool = True


@dataclass
class Judge:
    """`Workload.check`: {candidate: its output} -> {candidate: complaint} for those that are wrong.

    Args:
        given: the inputs, as every candidate gets them.
        plain: the same in plain torch, in the dtype of what it is given -> tensors by name.
        readings: by candidate; default: the output is the tensors themselves.
        gradients: names of outputs that are judged as gradients, too (relative L2 norm and angle).
        gate: for gradients that pass through several ReLUs, the relative change when one gate flips. Which inner
            gates rounding flips, each moving single elements far, is luck: such gradients are judged like a network's.
    """

    given: Callable[[], Given]
    plain: Callable[[Given], Mapping[str, Tensor]]
    readings: Mapping[str, Reading] = field(default_factory=dict)
    gradients: Sequence[str] = ()
    gate: float | None = None

    def __call__(self, outputs: dict[str, object]) -> dict[str, str]:
        if not outputs:
            return {}
        given = self.given()
        written = [name for name, version in given.versions().items() if version]
        if written:  # everything below would be compared with something else
            return dict.fromkeys(outputs, f"a candidate wrote to the inputs {', '.join(written)}")
        with untuned():
            exact = dict(self.plain(given.to(torch.float64)))
        degenerate = [name for name, t in exact.items() if t.numel() and not t.any()]
        if degenerate:
            return dict.fromkeys(
                outputs, f"{', '.join(degenerate)} should be all zeros: such inputs prove nothing"
            )
        torchs: dict[tuple[torch.dtype | None, bool], Mapping[str, Tensor]] = {}
        complaints = {}
        for name, output in outputs.items():
            reading = self.readings.get(name, Reading())
            key = reading.dtype, reading.channels_last
            if key not in torchs:
                cast = given.to(reading.dtype)
                torchs[key] = self.plain(cast if reading.channels_last else cast.nchw())
            complaint = self._complaint(output, reading, torchs[key], exact)
            if complaint:
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
        for name, tensor in zip(exact, tensors, strict=True):
            if not isinstance(tensor, Tensor):
                return f"{name} is missing"
            actual[name] = tensor if reading.dtype is None else tensor.to(torchs[name].dtype)
        chained = self.gradients if self.gate is not None else ()
        try:
            for name, truth in exact.items():
                if name not in chained:
                    self._compare(name, actual[name], torchs[name], truth)
        except AssertionError as error:
            return str(error)
        if self.gate is None or not chained:
            return ""
        return GradientsRule(self.gate)(
            *({name: tensors[name] for name in chained} for tensors in (actual, torchs, exact))
        )

    def _compare(self, name: str, actual: Tensor, theirs: Tensor, exact: Tensor) -> None:
        if theirs.dtype == torch.float64:
            _compare_float64(name, actual, exact)
        elif name in self.gradients:
            check_gradient_rule(actual, theirs, exact, name=name)
        else:
            check_rule(actual, theirs, exact, name=name)


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


def _compare_float64(name: str, actual: Tensor, exact: Tensor) -> None:
    assert actual.shape == exact.shape, (
        f"{name} has shape {list(actual.shape)}, not {list(exact.shape)}"
    )
    assert actual.dtype == torch.float64, f"{name} has dtype {actual.dtype}, not torch.float64"
    assert torch.equal(actual.isfinite(), exact.isfinite()), f"{name} is not finite elsewhere"
    finite = exact.isfinite()
    if not finite.any():
        return
    worst = (actual - exact)[finite].abs().max()
    allowed = FLOAT64_TOLERANCE * exact[finite].abs().max()
    assert worst <= allowed, (
        f"{name} (torch.float64) is off by {worst:.3e} where {allowed:.3e} is allowed"
    )
