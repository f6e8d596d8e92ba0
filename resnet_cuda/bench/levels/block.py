"""Residual blocks as modules - inference, forward and backward of all gradients - against the same in plain torch."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from resnet_cuda import fuse, reference
from resnet_cuda.bench import (
    computation,
    costs,
    folded,
    layers,
    modes,
    networks,
    peers,
    training_passes,
)
from resnet_cuda.bench.ceilings import Part
from resnet_cuda.bench.computation import (
    EPS,
    Random,
    Way,
    affine,
    away_from_gate,
    for_statistics,
    shrinkable,
)
from resnet_cuda.bench.device import Device
from resnet_cuda.bench.layers import Block, Network
from resnet_cuda.bench.modes import INFERENCE, STEP, Made
from resnet_cuda.bench.plan import Plan
from resnet_cuda.bench.rule import Given
from resnet_cuda.bench.workload import Absent, Workload

_LENDERS = {reference.BasicBlock: "resnet18", reference.Bottleneck: "resnet50"}


def workloads(device: Device, plan: Plan) -> Iterator[Workload]:
    """The distinct blocks of the plan's first network; where it has none of a kind, with or without a projection,
    the first such of another network.

    Compilers take part in the first block only.
    """
    found = list(_blocks(plan))
    for dtype in plan.dtypes:
        for i, (block, owner) in enumerate(found):
            for mode in (INFERENCE, STEP):
                compilers = modes.compilers(mode, plan) if i == 0 else []
                if compilers:
                    torch._dynamo.reset()  # else earlier blocks count as recompilation
                make = partial(_workload, device, dtype, mode, compilers)
                yield shrinkable(make, block, {"network": owner})


def _blocks(plan: Plan) -> Iterator[tuple[Block, str]]:
    name = plan.networks[0]
    network = layers.network(name, plan.batch, plan.image_size).first(plan.first_layers)
    yield from ((block, name) for block in network.blocks)
    for kind, lender in _LENDERS.items():
        for shortcut in ("identity", "projection"):
            if not _of_kind(network, kind, shortcut):
                other = layers.network(lender, plan.batch, plan.image_size)
                yield from ((block, lender) for block in _of_kind(other, kind, shortcut)[:1])


def _of_kind(network: Network, kind: type[nn.Module], shortcut: str) -> list[Block]:
    return [b for b in network.blocks if type(b.module) is kind and b.shortcut == shortcut]


def _workload(
    device: Device,
    dtype: torch.dtype,
    mode: str,
    compilers: Sequence[networks.Variant],
    block: Block,
) -> Workload:
    chained: list[str] = []
    if mode == STEP:
        block = for_statistics(block)
        chained = _before_inner_gates(block.module)
    ours, plain = partial(_make, block, True), partial(_make, block, False)
    styles = modes.styles(device, ours, plain, mode, dtype, compilers)
    ways = [modes.way(device, style, mode) for style in styles]
    if mode == INFERENCE:
        ways += [_library_way(device, block), *_apex_ways(device, dtype, block)]
    return computation.workload(
        device,
        dtype,
        level="block",
        name=str(block),
        pass_name=mode,
        inputs=partial(_inputs, block, mode),
        plain=modes.plain(plain, mode),
        ways=ways,
        parts=_parts(block, mode, dtype),
        part_of_network=block,
        chained=chained,
        gate=1 / math.sqrt(min(math.prod(norm.shape) for norm in block.parts().batch_norms)),
    )


def _before_inner_gates(module: nn.Module) -> list[str]:
    """The gradients that come through a ReLU inside the block: not those of the last unit and of the projection."""
    last = 3 if hasattr(module, "conv3") else 2
    direct = (f"conv{last}.", f"bn{last}.", "downsample.")
    names = [name for name, _ in module.named_parameters()]
    return ["dx", *(f"d{name}" for name in names if not name.startswith(direct))]


def _parts(block: Block, mode: str, dtype: torch.dtype) -> list[Part]:
    if mode == STEP:
        traces = training_passes.of_module(block.module, block.shape, dtype, True)
        return [part for one in traces for part in training_passes.parts(one)]
    layers_of_block = block.parts().convolutions
    return [p for layer in layers_of_block for p in costs.inference(layer, dtype) * layer.count]


def _inputs(block: Block, mode: str, random: Random) -> Given:
    """x, and the block's parameters and statistics under their names in its state dict."""
    given = Given(x=random.normal(block.shape))
    ranges = {
        "running_mean": (-0.5, 0.5),
        "running_var": (0.5, 1.5),
        "weight": (0.5, 1.5),
        "bias": (-0.8, 0.8),
    }
    for name, tensor in block.module.state_dict().items():
        if tensor.dim() == 4:
            n, c, r, s = tensor.shape
            given[name] = random.normal((n, c, r, s), (2 / (c * r * s)) ** 0.5)
        elif tensor.dim() == 1:
            low, high = ranges[name.rpartition(".")[2]]
            given[name] = random.vector(len(tensor), low, high)
    if mode == STEP:
        before = _before_relu(block, given.to(torch.float64))
        given["dz"] = away_from_gate(random.normal(before.shape), before)
    return given


def _before_relu(block: Block, given: Given) -> Tensor:
    """What the ReLU at the block's end is given, in training."""
    seen: list[Tensor] = []
    module = _build(block, given, training=True)
    module.relu.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        module(given["x"])
    return seen[-1]


def _build(block: Block, own: Given, training: bool) -> Any:
    """The plain module on the given tensors themselves."""
    module = copy.deepcopy(block.module)
    state = {name: tensor for name, tensor in own.items() if name not in ("x", "dz")}
    counters = {
        name: torch.zeros((), dtype=torch.long, device=own["x"].device)
        for name in module.state_dict()
        if name.endswith("num_batches_tracked")
    }
    module.load_state_dict({**state, **counters}, assign=True)
    return module.train(training)


def _make(block: Block, fused: bool, own: Given, training: bool, mode: str | None) -> Made:
    module = _build(block, own, training)
    module = fuse(module, inplace=True) if fused else _adding_in_place(module)
    x = own["x"].detach().requires_grad_(training)
    call: Callable[..., Tensor] = module if mode is None else networks.compiled(module, mode)
    parameters = dict(module.named_parameters())  # in an order of its own
    names = [name for name, _ in block.module.named_parameters()]
    return Made(lambda: call(x), {"x": x, **{name: parameters[name] for name in names}})


def _adding_in_place(module: nn.Module) -> nn.Module:
    """As torchvision's blocks do; `resnet_cuda.reference` is written to be read."""
    traced = fx.symbolic_trace(module)
    for node in traced.graph.nodes:
        if node.target is operator.add:
            node.target = operator.iadd
    traced.recompile()
    return traced


def _library_way(device: Device, block: Block) -> Way:
    """The block on the fused calls of cuDNN or oneDNN, batch norms folded."""
    library = folded.Library(device)

    def prepare(given: Given) -> Callable[[], object]:
        module = _build(block, given, training=False)
        x = given["x"]
        count = 3 if hasattr(module, "conv3") else 2
        names = [(f"conv{i}", f"bn{i}") for i in range(1, count + 1)]
        shape: Sequence[int] = x.shape
        calls = []
        for conv_name, bn_name in names:
            conv = getattr(module, conv_name)
            calls.append(library.prepare(_fold(conv, getattr(module, bn_name)), shape))
            with torch.no_grad():
                shape = conv(x.new_empty(tuple(shape))).shape
        shortcut = None
        if module.downsample is not None:
            shortcut = library.prepare(_fold(*module.downsample), x.shape)

        def run() -> Tensor:
            z = x
            for call in calls[:-1]:
                z = call(z, None, True)
            if shortcut is None:
                return calls[-1](z, x, True)
            return calls[-1](z, shortcut(x, None, False), True, True)

        return run

    return modes.at_inference(Way(library.name(True), prepare))


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> folded.Folded:
    assert bn.running_mean is not None and bn.running_var is not None
    vectors = Given(
        gamma=bn.weight, beta=bn.bias, running_mean=bn.running_mean, running_var=bn.running_var
    )
    padding = conv.padding[0]
    assert isinstance(padding, int)
    geometry = {"stride": conv.stride[0], "padding": padding, "dilation": conv.dilation[0]}
    with torch.no_grad():
        return folded.fold(conv.weight, *affine(vectors), {**geometry, "groups": conv.groups})


def _apex_ways(device: Device, dtype: torch.dtype, block: Block) -> list[Way]:
    """apex's bottleneck: float16, frozen batch norms, the stride in the first 1x1, so only where there is no stride."""
    module: Any = block.module
    plain = type(module) is reference.Bottleneck and module.stride == 1 and module.conv2.groups == 1
    if not plain or dtype != torch.float16 or device.kind == "cpu":
        return []

    def prepare(given: Given) -> Callable[[], object]:
        package: Any = peers.require("apex")
        if given["x"].device.type != "cuda":
            raise Absent("apex's bottleneck needs a GPU")
        sizes = (module.conv1.in_channels, module.conv1.out_channels, module.conv3.out_channels)
        apexs = package.Bottleneck(*sizes, use_cudnn=True).to(given["x"].device, dtype)
        apexs = apexs.to(memory_format=torch.channels_last)
        state = {name: t for name, t in given.items() if name not in ("x", "dz")}
        # Its batch norm has no epsilon.
        state |= {name: t + EPS for name, t in state.items() if name.endswith("running_var")}
        apexs.load_state_dict(state)
        return lambda: apexs(given["x"])

    return [modes.at_inference(Way("apex", prepare))]
