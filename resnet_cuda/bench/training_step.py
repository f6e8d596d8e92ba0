"""Where the time of a training step goes: torch's profiler over a few steps, its events grouped by what they do.

On a GPU a kernel's time counts for the op that launched it, so that a library's kernels need not be known by name;
names only tell dgrad from wgrad where one op launches both. On the CPU it is the op's own time. What is left of the step's
wall time is "idle": on a GPU the device waits, on the CPU Python runs between ops.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from resnet_cuda.bench import networks
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.network_costs import costs
from resnet_cuda.bench.network_runs import Problem, training_step
from resnet_cuda.bench.networks import Variant
from resnet_cuda.bench.plan import Plan

OTHER, IDLE = "other", "idle"
_WARM_UP_STEPS = 2
_STEPS = 3
_UNRECOGNISED = 5  # names that are listed

# The first pattern that is found in an op's name says what it does; then in its kernel's name.
_KINDS: tuple[tuple[str, str], ...] = (
    ("convolution forward", r"::conv_fprop|bottleneck_(reduce|expand)"),
    ("convolution dgrad", r"::conv_dgrad"),
    ("convolution wgrad", r"::conv_wgrad"),
    ("convolution backward", r"convolution_backward"),
    ("convolution forward", r"convolution"),
    ("batch norm backward", r"batch_norm_backward|::bn_(backward|relu_backward|.*backward)"),
    ("batch norm forward", r"batch_norm|::bn_"),
    ("pooling", r"pool"),
    ("ReLU and addition", r"add_relu|::(add|relu|threshold_backward|clamp_min)_?$"),
    ("classifier and loss", r"::(addmm|mm|linear|bmm)$|softmax|nll_loss|cross_entropy"),
    ("optimizer", r"_foreach_|Optimizer"),
    (
        "copies and layout",
        r"::(copy_|_to_copy|clone|contiguous|fill_|zero_|empty\w*|resize_|cat|_reshape_alias)$|"
        r"[mM]emcpy|[mM]emset|nchwToNhwc|nhwcToNchw",
    ),
)
_BACKWARD_KERNELS = (("convolution dgrad", r"dgrad"), ("convolution wgrad", r"wgrad"))
# Without time of their own, or only Python's: the autograd engine's nodes and annotations.
_HOST_ONLY = re.compile(r"^autograd::engine|Backward\d+$|^Optimizer\.|AccumulateGrad|^ProfilerStep")


class Kernel(Protocol):
    """Something that ran on a GPU, in microseconds."""

    name: str
    duration: float


class Event(Protocol):
    """What is used of torch.autograd.profiler_util.FunctionEvent."""

    name: str
    device_type: Any
    kernels: Sequence[Kernel]
    is_user_annotation: bool | None

    @property
    def self_cpu_time_total(self) -> float: ...

    @property
    def device_time_total(self) -> float: ...
