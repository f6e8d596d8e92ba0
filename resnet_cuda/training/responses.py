"""How strongly the layers of a ResNet respond: He et al. 2015, sec. 4.2 and figure 7."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from resnet_cuda import reference


def response_stds(model: nn.Module) -> dict[str, float]:
    """By batch norm behind a 3x3 convolution, in the network's order: the standard deviation of its output.

    Nothing is run: in each channel a batch norm's output has the standard deviation |gamma| sqrt(var / (var + eps)),
    with the running variance for var. Over the channels it is the root of the mean square.

    Raises:
        TypeError: model is no ResNet of this package (with pre-activation, no batch norm ends a layer).
        ValueError: its batch norms keep no running statistics.
    """
    return {name: _output_variances(name, bn).mean().sqrt().item() for name, bn in _layers(model)}


def measured_response_stds(model: nn.Module, x: Tensor) -> dict[str, float]:
    """What `response_stds` is about, measured by forward hooks on the outputs for x [N, C, H, W] in eval mode.

    Raises:
        TypeError: model is no ResNet of this package.
    """
    training = model.training
    stds: dict[str, float] = {}
    hooks = []
    for name, bn in _layers(model):

        def note(module: nn.Module, inputs: object, output: Tensor, name: str = name) -> None:
            variances = output.double().var((0, 2, 3), correction=0)
            stds[name] = variances.mean().sqrt().item()

        hooks.append(bn.register_forward_hook(note))
    try:
        with torch.no_grad():
            model.eval()(x)  # a fused block with hooks on its children runs them one by one
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return stds


def _output_variances(name: str, bn: nn.BatchNorm2d) -> Tensor:
    """float64 [C]."""
    if bn.running_var is None:
        raise ValueError(f"{name} has no running variance; expected track_running_stats=True")
    variance = bn.running_var.double()
    return bn.weight.detach().double() ** 2 * variance / (variance + bn.eps)


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.BatchNorm2d]]:
    if not isinstance(model, reference.ResNet):
        raise TypeError(f"model is a {type(model).__name__}; expected a ResNet of this package")
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and "downsample" not in name:
            yield name, module
