"""Where the time of a training step goes: torch's profiler over a few steps, its events grouped by what they do.

On a GPU a kernel's time counts for the op that launched it, so that a library's kernels need not be known by name;
names only tell dgrad from wgrad where one op launches both. On the CPU it is the op's own time. What is left of the
steps' time is "idle": on a GPU the device waits, on the CPU Python runs between ops.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from resnet_cuda.bench import networks
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.network_costs import costs
from resnet_cuda.bench.network_runs import Problem, training_step
from resnet_cuda.bench.networks import Variant
from resnet_cuda.bench.plan import Plan

OPTIMIZER, AUTOGRAD, OTHER, IDLE = "optimizer", "autograd and views", "other", "idle"
_WARM_UP_STEPS = 2
_STEPS = 3
_LISTED = 5  # of the unrecognised

# The first pattern that an op's name contains says what it does.
_KINDS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("convolution dgrad", r"::_?conv_dgrad|::_?bottleneck_expand_dgrad"),
        ("convolution wgrad", r"::_?conv_wgrad|::_?bottleneck_expand_wgrad"),
        ("convolution forward", r"::_?conv_fprop|::_?bottleneck_(reduce|expand|block)"),
        (
            "batch norm backward",
            r"batch_norm\w*_backward|::_?(bn|closed_form)_backward|BatchNorm\w*Backward",
        ),
        ("batch norm forward", r"batch_norm|::_?bn_|::_?bottleneck_gram|::_?closed_form"),
        ("convolution dgrad and wgrad", r"convolution\w*_backward"),
        ("convolution forward", r"convolution|::conv2d"),
        ("pooling", r"pool"),
        ("ReLU and addition", r"add_relu|::(add|relu|threshold_backward|clamp_min)_?$"),
        ("classifier and loss", r"::(addmm|mm|linear)$|softmax|nll_loss|cross_entropy"),
        (OPTIMIZER, r"::_foreach_|^Optimizer\."),
        (
            "copies and layout",
            r"::(copy_|_to_copy|to|clone|contiguous|fill_|zero_|zeros|empty\w*|new_empty\w*|resize_|cat)$",
        ),
        (
            AUTOGRAD,
            r"^autograd::|AccumulateGrad|^_?[A-Z]\w*$|Backward\d*$|^detach|"
            r"::(detach|view|t|transpose|as_strided_?|flatten|alias|expand)$",
        ),
    )
)
_BACKWARD_KERNELS = (
    ("convolution dgrad", re.compile("dgrad")),
    ("convolution wgrad", re.compile("wgrad")),
    # cuDNN's own conversions between its calls.
    ("copies and layout", re.compile("nchwToNhwc|nhwcToNchw|[tT]ranspose")),
)


class Kernel(Protocol):
    """Something that ran on a GPU; `duration` in microseconds."""

    name: str
    duration: float


class Event(Protocol):
    """What is used of torch.autograd.profiler_util.FunctionEvent; times in microseconds."""

    name: str
    device_type: DeviceType
    kernels: Sequence[Kernel]
    cpu_parent: Any
    is_user_annotation: bool | None

    @property
    def self_cpu_time_total(self) -> float: ...

    @property
    def device_time_total(self) -> float: ...


@dataclass(frozen=True)
class Breakdown:
    """Microseconds of one step, while it was profiled: all of them, and by kind; "idle" makes the sum complete.

    `unrecognised`: the largest of what is "other", by name.
    """

    wall: float
    kinds: dict[str, float]
    unrecognised: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "wall_us": self.wall,
            "kinds": [
                {"kind": kind, "us": us, "share": us / self.wall} for kind, us in self.kinds.items()
            ],
            "unrecognised": [{"name": name, "us": us} for name, us in self.unrecognised.items()],
        }


def measure(
    device: Device, plan: Plan, note: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """For the report's section "training_step": ours and eager, of ResNet-50 where the plan has it, else of its first
    network. With the fields of `Breakdown.to_json`: network, batch, image_size, dtype, candidate, steps and step_us
    (without the profiler).

    With too little memory the batch is halved, and `note` told.
    """
    known = [name for name in plan.networks if name in networks.available()]
    if not known:
        return []
    name = "resnet50" if "resnet50" in known else known[0]
    batch = costs(name, plan.image_size).training_batch(plan.batch)
    while True:
        problem = Problem(device, name, batch, plan.image_size, plan.dtypes[0])
        try:
            with device.ours():
                return [_row(problem, variant) for variant in (networks.FUSED, networks.EAGER)]
        except Exception as error:
            if not device.is_out_of_memory(error) or batch == 1:
                raise
        device.release_memory()
        note(f"training step of {name}: out of memory at n{batch}; n{batch // 2} instead")
        batch //= 2


def _row(problem: Problem, variant: Variant) -> dict[str, Any]:
    step = training_step(problem, variant)
    for _ in range(_WARM_UP_STEPS):
        step()
    found = breakdown(problem.device, step, _STEPS)
    return {
        "network": problem.network,
        "batch": problem.batch,
        "image_size": problem.pixels,
        "dtype": str(problem.dtype).removeprefix("torch."),
        "candidate": variant.name,
        "steps": _STEPS,
        "step_us": _seconds(problem.device, step, _STEPS) / _STEPS * 1e6,
        **found.to_json(),
    }


def breakdown(device: Device, step: Callable[[], object], steps: int) -> Breakdown:
    """Profiles `steps` calls of `step`, which has been warmed up."""
    on_gpu = device.kind == "cuda"
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    device.synchronize()
    # Else the profiler's library writes a line about each start and stop into the progress. It reads this once, at
    # its first use, and has no level for errors alone that would leave those out.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(activities=activities) as profiler:
        seconds = _seconds(device, step, steps)
    times = kernel_times if on_gpu else op_times
    return group(times(profiler.events()), seconds * 1e6, steps)


def _seconds(device: Device, step: Callable[[], object], steps: int) -> float:
    start = device.mark()
    for _ in range(steps):
        step()
    end = device.mark()
    device.synchronize()
    return device.seconds(start, end)


def op_times(events: Iterable[Event]) -> Iterable[tuple[str, str, float]]:
    """(kind, name, own microseconds) of everything that ran on the CPU."""
    for event in events:
        if event.device_type == DeviceType.CPU:
            yield kind_of(event), event.name, event.self_cpu_time_total


def kernel_times(events: Iterable[Event]) -> Iterable[tuple[str, str, float]]:
    """(kind, name, microseconds) of every kernel and copy that ran on the GPU, by the op that launched it."""
    outside: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.device_type == DeviceType.CPU:
            for kernel in event.kernels:
                outside[kernel.name] -= kernel.duration
                yield kind_of(event, kernel.name), kernel.name, kernel.duration
        elif not event.is_user_annotation:
            outside[event.name] += event.device_time_total
    for name, us in outside.items():
        if us > 0:  # no op is known to have launched it
            yield OTHER, name, us


def kind_of(event: Event, kernel: str | None = None) -> str:
    """What an op does; of a convolution's backward, what the kernel does."""
    op, above = event, event.cpu_parent
    while above is not None:
        if above.name.startswith("Optimizer."):
            return OPTIMIZER
        above = above.cpu_parent
    kind = next((kind for kind, pattern in _KINDS if pattern.search(op.name)), None)
    if kernel is not None and kind in (None, AUTOGRAD, "convolution dgrad and wgrad"):
        # A runtime call between the op and the kernel says nothing; the op above it does.
        if kind is None and event.cpu_parent is not None:
            return kind_of(event.cpu_parent, kernel)
        for backward, pattern in _BACKWARD_KERNELS:
            if pattern.search(kernel):
                return backward
    return kind or OTHER


def group(times: Iterable[tuple[str, str, float]], wall: float, steps: int) -> Breakdown:
    """Per step, the largest kinds first."""
    kinds: defaultdict[str, float] = defaultdict(float)
    unrecognised: defaultdict[str, float] = defaultdict(float)
    for kind, name, us in times:
        kinds[kind] += us / steps
        if kind == OTHER:
            unrecognised[name] += us / steps
    wall /= steps
    other = kinds.pop(OTHER, 0.0)
    ordered = {**_largest(kinds), OTHER: other}
    ordered[IDLE] = wall - sum(ordered.values())
    return Breakdown(wall, ordered, dict(list(_largest(unrecognised).items())[:_LISTED]))


def _largest(times: Mapping[str, float]) -> dict[str, float]:
    """By descending time."""
    return dict(sorted(times.items(), key=lambda item: -item[1]))
