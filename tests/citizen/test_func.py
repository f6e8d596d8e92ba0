"""torch.func and forward mode: values and derivatives are those of plain calls and of backward().

Reverse mode runs on the backend; under vmap and in forward mode, which cannot follow kernels, ops are plain torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from resnet_cuda import _backend
from tests.citizen.calls import CASES, MODULES, OPS, inputs, module, problem
from tests.networks import assert_close

WEIGHTED = [name for name in MODULES if name != "AddReLU"]


def squares(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *given: call(*given).square().sum()


class Pulled(NamedTuple):
    """Some cotangents [D, *z] and what backward() makes of them: gradients [D, *x] of the first leaf."""

    cotangents: Tensor
    gradients: Tensor


def pulled_back(call: Callable[..., Tensor], leaves: list[Tensor]) -> Pulled:
    z = call(*leaves)
    cotangents = torch.randn(3, *z.shape, dtype=z.dtype)
    found = [torch.autograd.grad(z, leaves[0], v, retain_graph=True)[0] for v in cotangents]
    return Pulled(cotangents, torch.stack(found))


@pytest.mark.parametrize(("name", "training"), CASES)
def test_grad_and_vjp_are_what_backward_gives(backend: str, name: str, training: bool) -> None:
    call, leaves = problem(name, training=training)
    z = call(*leaves)
    expected = torch.autograd.grad(z.square().sum(), leaves)
    detached = [leaf.detach() for leaf in leaves]
    found = grad(squares(call), tuple(range(len(leaves))))(*detached)
    output, pull_back = vjp(call, *detached)
    assert torch.equal(output, z), "vjp changed the output"
    for i, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        assert_close(value, wanted, f"gradient of leaf {i}")
    for i, (value, wanted) in enumerate(zip(pull_back(2 * output), expected, strict=True)):
        assert_close(value, wanted, f"vjp of leaf {i}")


@pytest.mark.parametrize(("name", "training"), CASES)
def test_vmap_is_a_loop(backend: str, name: str, training: bool) -> None:
    call, leaves = problem(name, training=training)
    first, second = ([leaf.detach() * scale for leaf in leaves] for scale in (1.0, -0.7))
    both = [torch.stack(pair) for pair in zip(first, second, strict=True)]
    dims = (0, *[None] * (len(leaves) - 1))
    only_x = vmap(call, dims)(both[0], *first[1:])
    assert_close(only_x[0], call(*first), "the first of two images batches")
    assert_close(only_x[1], call(second[0], *first[1:]), "the second of two images batches")
    # Weights, too: an ensemble.
    ensemble = vmap(call)(*both)
    assert_close(ensemble[1], call(*second), "the second of an ensemble")
    gradients = vmap(grad(squares(call)))(*both)
    for i, given in enumerate((first, second)):
        x = given[0].requires_grad_()
        (wanted,) = torch.autograd.grad(squares(call)(x, *given[1:]), x)
        assert_close(gradients[i], wanted, f"per-sample gradient {i}")


@pytest.mark.parametrize(("name", "training"), CASES)
def test_jacobians_of_both_modes_and_batched_gradients(
    backend: str, name: str, training: bool
) -> None:
    call, leaves = problem(name, training=training)
    expected = pulled_back(call, leaves)
    detached = [leaf.detach() for leaf in leaves]
    for transform in (jacrev, jacfwd):
        jacobian = transform(call)(*detached)
        found = torch.tensordot(expected.cotangents, jacobian, 4)
        assert_close(found, expected.gradients, f"{transform.__name__}, pulled back")
    z = call(*leaves)
    given = expected.cotangents
    (batched,) = torch.autograd.grad(z, leaves[0], given, is_grads_batched=True)
    assert_close(batched, expected.gradients, "gradients with is_grads_batched")


@pytest.mark.parametrize("grad_mode", [False, True], ids=["no_grad", "grad"])
@pytest.mark.parametrize("name", OPS)
def test_forward_mode_follows_every_op(backend: str, name: str, grad_mode: bool) -> None:
    """Without grad mode inference would take kernels, whose results have no tangent."""
    call, leaves = problem(name)
    expected = pulled_back(call, leaves)
    direction = torch.linspace(-1, 1, leaves[0].numel(), dtype=torch.float64).view_as(leaves[0])
    with torch.set_grad_enabled(grad_mode), forward_ad.dual_level():
        z = call(forward_ad.make_dual(leaves[0].detach(), direction), *leaves[1:])
        tangent = forward_ad.unpack_dual(z).tangent
    assert tangent is not None, "the result is a constant to forward mode"
    found = torch.tensordot(expected.cotangents, tangent, 4)
    wanted = torch.tensordot(expected.gradients, direction, 4)
    assert_close(found, wanted, "tangent, along some cotangents")


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["conv_bn_relu", "bn_relu", "residual_branch, option A"])
def test_second_derivatives_in_every_order_of_modes(
    backend: str, name: str, training: bool
) -> None:
    call, leaves = problem(name, training=training)
    x, rest = leaves[0].detach(), [leaf.detach() for leaf in leaves[1:]]
    loss = lambda given: squares(call)(given, *rest)  # noqa: E731
    direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((slope * direction).sum(), leaf)
    assert_close(jvp(grad(loss), (x,), (direction,))[1], expected, "forward over reverse")
    reverse = grad(lambda given: (grad(loss)(given) * direction).sum())(x)
    assert_close(reverse, expected, "reverse over reverse")
    if not training:  # torch 2.13 has it wrong for a plain F.batch_norm in training, too
        forward = grad(lambda given: jvp(loss, (given,), (direction,))[1])(x)
        assert_close(forward, expected, "reverse over forward")
    whole = (hessian(loss)(x) * direction).sum((-4, -3, -2, -1))
    assert_close(whole, expected, "hessian")


@pytest.mark.parametrize("name", MODULES)
def test_functional_call_takes_other_weights(backend: str, name: str) -> None:
    made, given = module(name).train(), inputs(name)
    other = {key: p.detach() * 0.9 + 0.01 for key, p in made.named_parameters()}
    statistics = {key: b.clone() for key, b in made.named_buffers()}
    before = {key: b.clone() for key, b in made.named_buffers()}

    def loss(weights: dict[str, Tensor]) -> Tensor:
        buffers = {key: b.clone() for key, b in statistics.items()}
        torch.manual_seed(0)
        return functional_call(made, (weights, buffers), given).square().sum()

    found = grad(loss)(other)
    for key, value in made.named_buffers():
        assert torch.equal(value, before[key]), f"{key} of the module itself moved"
    made.load_state_dict({**before, **other})
    torch.manual_seed(0)
    made(*given).square().sum().backward()
    for key, parameter in made.named_parameters():
        assert_close(found[key], parameter.grad, f"gradient of {key}")


@pytest.mark.parametrize("name", WEIGHTED)
def test_per_sample_gradients_of_modules(backend: str, name: str) -> None:
    made, (x,) = module(name).eval(), inputs(name)
    weights = {key: p.detach() for key, p in made.named_parameters()}
    buffers = dict(made.named_buffers())

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(made, (weights, buffers), (image[None],)).square().sum()

    found = vmap(grad(loss), (None, 0))(weights, x.detach())
    for i in range(2):
        made.zero_grad()
        made(x[i : i + 1]).square().sum().backward()
        for key, parameter in made.named_parameters():
            assert_close(found[key][i], parameter.grad, f"gradient {i} of {key}")


@pytest.mark.parametrize("name", WEIGHTED)
def test_one_statistic_for_many_batches_is_torchs_error(backend: str, name: str) -> None:
    made = module(name).train()
    (x,) = inputs(name)
    options = {"randomness": "different"}
    with pytest.raises(RuntimeError, match="running_mean or running_var, which will be updated"):
        vmap(made, **options)(torch.stack([x.detach(), x.detach()]))


TRANSFORMED: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "grad": lambda op: lambda x: grad(lambda given: op(given).square().sum())(x),
    "vmap": lambda op: lambda x: vmap(op)(torch.stack([x, -x])),
    "jvp": lambda op: lambda x: jvp(op, (x,), (x,))[1],
}


@pytest.mark.parametrize("transform", TRANSFORMED)
@pytest.mark.parametrize("name", ["add_relu", "conv_bn_relu"])
def test_compiled_transforms_give_the_values_of_eager_ones(
    backend: str, name: str, transform: str
) -> None:
    if (name, transform) == ("conv_bn_relu", "jvp"):
        pytest.skip("torch 2.13 cannot compile the jvp of its own batch_norm")
    call, (x, *rest) = problem(name)
    rest = [leaf.detach() for leaf in rest]
    transformed = TRANSFORMED[transform](lambda given: call(given, *rest))
    expected = transformed(x.detach())
    torch._dynamo.reset()
    found = torch.compile(transformed, backend="aot_eager", fullgraph=True)(x.detach())
    torch._dynamo.reset()
    assert expected.abs().max() > 0
    assert_close(found, expected, transform)


def test_kernels_serve_again_behind_a_transform(backend: str) -> None:
    x = torch.randn(1)
    served = _backend.resolve(x).name
    names: list[str] = []
    vmap(lambda given: (names.append(_backend.resolve(given).name), given)[1])(x)
    grad(lambda given: (names.append(_backend.resolve(given).name), given.sum())[1])(x)
    jvp(lambda given: (names.append(_backend.resolve(given).name), given)[1], (x,), (x,))
    assert names == ["reference", served, "reference"]
    assert _backend.resolve(x).name == served == backend
