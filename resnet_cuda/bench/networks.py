"""The networks that are compared: the same architecture with the same weights, run in different ways."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental import optimization as fx_optimization

from resnet_cuda import fuse, models, unfuse
from resnet_cuda.bench import peers
from resnet_cuda.bench.onednn import use_onednn
from resnet_cuda.bench.workload import OURS, Absent

_CALIBRATION = (8, 3, 64, 64)  # images from which batch norms take their running statistics

CLASSES = 10  # that labels are drawn from: every network has as many
_LAST_GAMMA = 0.3  # of each block's branch, relative to the others


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Args:
        name: of the candidate.
        source: "ours" (fused), "plain", "timm" (its equivalent), and for inference "folded" (plain, every batch norm
            folded into its convolution by torch.fx) and "onednn" (folded, on oneDNN's fused convolutions).
        channels_last: memory format of images and weights, else NCHW.
        autocast: parameters and images stay float32, torch.autocast casts to the workload's dtype.
        mode: of torch.compile, or "freezing"; None: not compiled.
        engine: a TensorRT engine made of the plain network (inference).
        graph: replayed as a CUDA graph.
        preparing_seconds: what a budget should expect of compilers.
    """

    name: str
    source: str = "plain"
    channels_last: bool = True
    autocast: bool = False
    mode: str | None = None
    engine: bool = False
    graph: bool = False
    preparing_seconds: float = 0.0

    @property
    def is_ours(self) -> bool:
        return self.source == "ours"


def captured(variant: Variant) -> Variant:
    """The same, replayed as a CUDA graph."""
    return replace(variant, name=f"{variant.name} + graph", graph=True)


FUSED = Variant(OURS, "ours")
EAGER = Variant("eager channels_last")
AUTOCAST = Variant("autocast bfloat16 channels_last", autocast=True)
EAGER_PEERS = (
    FUSED,
    EAGER,
    Variant("eager NCHW", channels_last=False),
    Variant("timm", "timm"),
)
AUTOCAST_PAIR = (Variant(OURS, "ours", autocast=True), AUTOCAST)
# Eager launches kernel by kernel; a graph shows what is left without the host's share.
GRAPHS = (captured(FUSED), captured(EAGER))
FOLDED = Variant("eager folded channels_last", "folded")
ONEDNN = Variant("oneDNN fused", "onednn")
ENGINE = Variant("tensorrt", engine=True, preparing_seconds=60)
COMPILED = Variant("compile", mode="default", preparing_seconds=60)
FROZEN = Variant("compile freezing", mode="freezing", preparing_seconds=30)
AUTOTUNED = Variant("compile max-autotune", mode="max-autotune", preparing_seconds=180)


def available() -> list[str]:
    """The names that `plain` accepts."""
    return models.list_models()


def plain(name: str) -> tuple[nn.Module, str]:
    """The unfused network in float32 on the CPU in eval mode, and whose code it is. A copy: the caller may change it.

    torchvision's where it has one of this name, else `resnet_cuda.reference`'s. Weights are seeded; batch norms have
    random affine parameters and the running statistics of random images, as after some training.

    Raises:
        Absent: resnet_cuda.models has no such network.
    """
    module, source = _plain(name)
    return copy.deepcopy(module), source


@functools.lru_cache(maxsize=2)
def _plain(name: str) -> tuple[nn.Module, str]:
    if name not in models.list_models():
        raise Absent(f"resnet_cuda.models has no {name}")
    with seeded(0):
        module, source = _torchvision(name)
        if module is None:
            module, source = (
                unfuse(models.create_model(name), inplace=True),
                "resnet_cuda.reference",
            )
        norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
        for bn in norms:
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias, 0.0, 0.1)
        for block in module.modules():
            # As in trained networks: else every block doubles the variance, and rounding errors with it.
            last = getattr(block, "bn3", getattr(block, "bn2", None))
            if isinstance(last, nn.BatchNorm2d):
                last.weight.data *= _LAST_GAMMA
        momenta = [bn.momentum for bn in norms]
        for bn in norms:
            bn.momentum = 1.0
        with torch.no_grad():
            module.train()(torch.randn(_CALIBRATION))
        for bn, momentum in zip(norms, momenta, strict=True):
            bn.momentum = momentum
            assert bn.num_batches_tracked is not None
            bn.num_batches_tracked.zero_()
    return module.eval(), source


def _torchvision(name: str) -> tuple[nn.Module | None, str]:
    try:
        package = peers.require("torchvision")
    except Absent:
        return None, ""
    make = getattr(package, name, None)
    return (None, "") if make is None else (make(), f"torchvision {peers.version('torchvision')}")


def timm_equivalent(name: str) -> nn.Module:
    """timm's network of the same architecture, which is the one of the same name, with `plain`'s weights.

    Raises:
        Absent: timm is not here, or has no such network.
    """
    timm: Any = peers.require("timm")
    reference, _ = plain(name)
    if name not in timm.list_models():
        raise Absent(f"timm has no {name}")
    with seeded(0):
        module: nn.Module = timm.create_model(name)
    try:
        module.load_state_dict(reference.state_dict())
    except RuntimeError as error:
        raise Absent(f"timm's {name} is another architecture: {error}") from error
    return module.eval()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build(
    variant: Variant, name: str, dtype: torch.dtype, device: torch.device, training: bool
) -> nn.Module:
    """The network that `variant` runs, neither compiled nor captured yet.

    Its weights have been rounded to `dtype`, so that all variants and the float64 reference have the same.

    Raises:
        Absent: it is not possible here.
    """
    module = timm_equivalent(name) if variant.source == "timm" else plain(name)[0]
    module = module.to(dtype).to(torch.float32 if variant.autocast else dtype)
    if variant.source in ("folded", "onednn"):
        module = fx_optimization.fuse(module)
    module = module.to(device).train(training)
    if variant.channels_last:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if variant.source == "onednn":
        assert isinstance(module, fx.GraphModule)
        module = use_onednn(module)
    return fuse(module, inplace=True) if variant.is_ours else module


def exact(name: str, dtype: torch.dtype, device: torch.device, training: bool) -> nn.Module:
    """The plain network in float64 with the weights of `dtype`: what all variants are checked against."""
    return plain(name)[0].to(dtype).to(torch.float64).to(device).train(training)


def images(
    batch: int, pixels: int, dtype: torch.dtype, device: torch.device, channels_last: bool = True
) -> Tensor:
    """Random images [batch, 3, pixels, pixels], the same in every call."""
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(batch, 3, pixels, pixels, generator=generator, device=device).to(dtype)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def labels(batch: int, device: torch.device) -> Tensor:
    """Random labels [batch] below `CLASSES`."""
    generator = torch.Generator(device).manual_seed(2)
    return torch.randint(CLASSES, (batch,), generator=generator, device=device)


def compiled(function: Callable[..., Tensor], mode: str) -> Callable[..., Tensor]:
    """A module or function through torch.compile, for one shape per compilation as benchmarks have it."""
    if mode == "default":
        return torch.compile(function, dynamic=False)
    if mode == "freezing":
        # The option alone freezes nothing (see `compiling`), but without it what the default mode has compiled for
        # another copy of the module would be taken for this one, too.
        return torch.compile(function, dynamic=False, options={"freezing": True})
    return torch.compile(function, dynamic=False, mode=mode)


@contextmanager
def compiling(mode: str | None) -> Iterator[None]:
    """Around a candidate's first calls, in which torch.compile does its work.

    Freezing is a global option of inductor that also tracing looks at, so that passing it to torch.compile does not
    freeze anything; what is compiled inside stays frozen outside.
    """
    import torch._inductor.config as config

    context: AbstractContextManager[Any] = nullcontext()
    if mode == "freezing":
        context = config.patch(freezing=True)
    with context:
        yield


def tensorrt_engine(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """`module` as a TensorRT engine for inputs like `x`.

    Raises:
        Absent: torch_tensorrt is not here.
    """
    package: Any = peers.require("torch_tensorrt")
    engine: Callable[[Tensor], Tensor] = package.compile(
        module, ir="dynamo", inputs=[x], enabled_precisions={x.dtype}
    )
    return engine
