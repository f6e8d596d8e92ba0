"""What the tests of modules and networks share: difficult weights, one training pass, and the comparison of two."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_cuda.testing import check_gradient_rule, check_rule


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Batch norms with random affine parameters and running statistics, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            size = (m.num_features,)
            if m.affine:
                m.weight.data.copy_(torch.rand(size, generator=generator) + 0.5)
                m.bias.data.copy_(torch.randn(size, generator=generator) * 0.1)
            if m.running_mean is not None:
                m.running_mean.copy_(torch.randn(size, generator=generator) * 0.1)
                m.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
    return model


def decide(block: nn.Module) -> None:
    """Every ReLU of a channel is open, or every one is closed: where a rounding decides, two right results are as
    far apart as the gradient is large."""
    for bn in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        bn.weight.data *= 0.15
        bn.bias.data.fill_(1.0)
        bn.bias.data[::4] = -1.0


def make_adversarial(model: nn.Module, seed: int = 0) -> nn.Module:
    """Gammas zero and negative, large running means, running variances from tiny to large."""
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            kind = torch.randint(4, (m.num_features,), generator=generator)
            m.weight.data[kind == 0] = 0.0
            m.weight.data[kind == 1] *= -1.0
            m.running_mean[kind == 2] *= 50.0
            exponents = torch.randint(-6, 3, (m.num_features,), generator=generator)
            m.running_var.copy_(10.0**exponents)
            # Keep the signal finite through fifty layers: a tiny variance goes with a small gamma.
            m.weight.data *= torch.sqrt(m.running_var + m.eps).clamp(max=1.0)
    return model


@dataclass
class Pass:
    """What one forward and backward pass gave."""

    output: Tensor
    input_grad: Tensor
    grads: dict[str, Tensor]
    buffers: dict[str, Tensor]


def run_pass(model: nn.Module, x: Tensor) -> Pass:
    """One pass of a copy of `model`, in the model's mode, with a fixed random gradient for the output."""
    model = copy.deepcopy(model)
    x = x.detach().clone().requires_grad_()
    output = model(x)
    generator = torch.Generator().manual_seed(7)
    grad = torch.randn(output.shape, generator=generator, dtype=torch.float64)
    output.backward(grad.to(output.dtype))
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None, "the network gave its input no gradient"
    return Pass(output.detach(), x.grad, grads, dict(model.named_buffers()))


def assert_same_pass(fused: Pass, plain: Pass, exact: Pass | None = None) -> None:
    """In fp64 agreement to rounding; with `exact` (plain in fp64) the tolerance rule for a lower precision."""
    assert fused.grads.keys() == plain.grads.keys(), "different parameters received gradients"
    if exact is None:
        assert_close(fused.output, plain.output, "output")
        assert_close(fused.input_grad, plain.input_grad, "gradient of the input")
        for name in plain.grads:
            assert_close(fused.grads[name], plain.grads[name], f"gradient of {name}")
        for name in plain.buffers:
            assert_close(fused.buffers[name], plain.buffers[name], name)
        return
    check_rule(fused.output, plain.output, exact.output)
    triple = (fused.input_grad, plain.input_grad, exact.input_grad)
    check_gradient_rule(*triple, name="gradient of the input")
    for name in plain.grads:
        triple = (fused.grads[name], plain.grads[name], exact.grads[name])
        check_gradient_rule(*triple, name=f"gradient of {name}")
    for name in plain.buffers:
        if plain.buffers[name].is_floating_point():
            check_rule(fused.buffers[name], plain.buffers[name], exact.buffers[name], name=name)
        else:
            assert torch.equal(fused.buffers[name], plain.buffers[name]), name


def assert_rule_over_inputs(
    ours: Sequence[Pass], theirs: Sequence[Pass], exact: Sequence[Pass]
) -> None:
    """The errors of every result over several inputs are at most twice torch's: of a single one with few channels, who
    is nearer is chance."""
    for key, first in _results(theirs[0]).items():

        def rms(passes: Sequence[Pass], key: str, truths: Sequence[Pass] = ()) -> float:
            values = [_results(p)[key].double() for p in passes]
            if truths:
                values = [v - _results(p)[key] for v, p in zip(values, truths, strict=True)]
            return torch.stack([v.square().sum() for v in values]).sum().sqrt().item()

        error, torchs, scale = rms(ours, key, exact), rms(theirs, key, exact), rms(exact, key)
        assert error <= max(2 * torchs, 2 * torch.finfo(first.dtype).eps * scale), (
            f"{key}: error {error:.3e}, torch's {torchs:.3e}, of {scale:.3e}"
        )


def _results(found: Pass) -> dict[str, Tensor]:
    buffers = {k: v for k, v in found.buffers.items() if v.is_floating_point()}
    return {"output": found.output, "gradient of x": found.input_grad, **found.grads, **buffers}


def assert_close(actual: Tensor, expected: Tensor, name: str) -> None:
    """Agreement to rounding of two fp64 results, relative to the largest expected value."""
    scale = expected.abs().max().item() if expected.numel() else 0.0
    atol = 1e-10 * scale + 1e-300
    if scale and actual.shape == expected.shape and actual.dtype == expected.dtype == torch.float64:
        # What is within atol everywhere needs no slower look.
        if torch.linalg.vector_norm(actual - expected, torch.inf) <= atol:
            return
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=atol, msg=lambda m: f"{name}: {m}")


def train_steps(model: nn.Module, batches: list[tuple[Tensor, Tensor]], lr: float = 0.05) -> None:
    """SGD with momentum, one step per (images, labels)."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
