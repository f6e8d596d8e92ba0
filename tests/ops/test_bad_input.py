"""Bad arguments: an error that names the argument, what it was and what is accepted; never a
crash, never silent garbage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from resnet_cuda import ops


def arguments(dtype: torch.dtype = torch.float32, **changed: Any) -> dict[str, Any]:
    """A valid conv_bn_relu call with some arguments replaced."""
    given: dict[str, Any] = {
        "x": torch.randn(2, 4, 6, 6, dtype=dtype),
        "weight": torch.randn(8, 4, 3, 3, dtype=dtype),
        "gamma": torch.ones(8, dtype=dtype),
        "beta": torch.zeros(8, dtype=dtype),
        "running_mean": torch.zeros(8, dtype=dtype),
        "running_var": torch.ones(8, dtype=dtype),
    }
    return {**given, **changed}


CASES: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    (
        "rank of x",
        {"x": torch.randn(4, 6, 6)},
        ValueError,
        r"x has shape \[4, 6, 6\]; accepted: 4 dim",
    ),
    (
        "rank of weight",
        {"weight": torch.randn(8, 4, 3)},
        ValueError,
        r"weight has shape \[8, 4, 3\]",
    ),
    ("x is no tensor", {"x": [1.0]}, TypeError, "x is a list; accepted"),
    ("weight is no tensor", {"weight": 3}, TypeError, "weight is a int; accepted"),
    ("channels", {"x": torch.randn(2, 3, 6, 6)}, ValueError, "takes 4 channels, x has 3"),
    (
        "dtype mix",
        {"weight": torch.randn(8, 4, 3, 3).double()},
        TypeError,
        "weight has dtype torch.float64",
    ),
    ("gamma dtype", {"gamma": torch.ones(8).double()}, TypeError, "gamma has dtype torch.float64"),
    (
        "integers",
        {"x": torch.ones(2, 4, 6, 6, dtype=torch.int32)},
        TypeError,
        "x has dtype torch.int32",
    ),
    (
        "complex",
        {"x": torch.ones(2, 4, 6, 6, dtype=torch.complex64)},
        TypeError,
        "x has dtype torch.complex64",
    ),
    ("sparse", {"x": torch.ones(2, 4, 6, 6).to_sparse()}, TypeError, "x has layout"),
    ("stride 0", {"stride": 0}, ValueError, "stride is 0; accepted: integers of at least 1"),
    ("stride of floats", {"stride": 1.5}, TypeError, "stride is 1.5; accepted: an int or two ints"),
    ("three strides", {"stride": (1, 2, 3)}, TypeError, "stride is"),
    ("negative padding", {"padding": (0, -1)}, ValueError, r"padding is \(0, -1\); accepted"),
    ("dilation 0", {"dilation": 0}, ValueError, "dilation is 0"),
    ("groups 0", {"groups": 0}, ValueError, "groups is 0"),
    ("groups that do not divide", {"groups": 3}, ValueError, "groups is 3, x has 4 channels"),
    ("groups as a string", {"groups": "2"}, TypeError, "groups is '2'"),
    (
        "kernel larger than the image",
        {"x": torch.randn(2, 4, 2, 2)},
        ValueError,
        "the output would have",
    ),
    (
        "empty image",
        {"x": torch.randn(2, 4, 0, 6)},
        ValueError,
        "accepted: C, H and W of at least 1",
    ),
    ("no filters", {"weight": torch.randn(0, 4, 3, 3)}, ValueError, "weight has shape"),
    (
        "residual's shape",
        {"residual": torch.randn(2, 8, 6, 6)},
        ValueError,
        r"accepted: \[2, 8, 4, 4\]",
    ),
    (
        "residual that broadcasts",
        {"residual": torch.randn(1, 8, 1, 1)},
        ValueError,
        "residual has shape",
    ),
    (
        "residual's dtype",
        {"residual": torch.randn(2, 8, 4, 4).double()},
        TypeError,
        "residual has dtype",
    ),
    (
        "running_mean's length",
        {"running_mean": torch.zeros(4)},
        ValueError,
        r"running_mean has shape \[4\]",
    ),
    ("gamma's rank", {"gamma": torch.ones(8, 1)}, ValueError, "gamma has shape"),
    ("gamma as a float", {"gamma": 1.0}, TypeError, "gamma is a float"),
    (
        "one running statistic",
        {"running_var": None},
        ValueError,
        "running_var is None and the other is not",
    ),
    (
        "eval without statistics",
        {"running_mean": None, "running_var": None},
        ValueError,
        "None with training=False",
    ),
    ("momentum None", {"momentum": None}, TypeError, "momentum is None"),
    ("eps as a string", {"eps": "small"}, TypeError, "eps is 'small'"),
    ("negative eps", {"eps": -1.0}, ValueError, "eps is -1.0"),
    (
        "meta weight",
        {"weight": torch.randn(8, 4, 3, 3, device="meta")},
        ValueError,
        "weight is on meta",
    ),
    (
        "statistics that require grad",
        {"running_mean": torch.zeros(8, requires_grad=True), "training": True},
        ValueError,
        "requires grad",
    ),
]


@pytest.mark.parametrize(
    ("changed", "error", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_conv_bn_relu_refuses(
    backend: str, device: str, changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    given = {
        name: value.to(device)
        if isinstance(value, torch.Tensor) and value.device.type != "meta"
        else value
        for name, value in arguments(**changed).items()
    }
    with pytest.raises(error, match=message):
        ops.conv_bn_relu(**given)


def test_a_single_value_per_channel_is_torchs_error(backend: str, device: str) -> None:
    x = torch.randn(1, 4, 3, 3, device=device)
    vectors = [v.to(device) for k, v in arguments().items() if k not in ("x", "weight")]
    weight = torch.randn(8, 4, 3, 3, device=device)
    message = (
        r"Expected more than 1 value per channel when training, got input size torch.Size\(\[1, 8"
    )
    with pytest.raises(ValueError, match=message):
        ops.conv_bn_relu(x, weight, *vectors, training=True)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        ops.bn_relu(torch.randn(1, 8, 1, 1, device=device), *vectors, training=True)
    assert ops.conv_bn_relu(x, weight, *vectors).shape == (1, 8, 1, 1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: ops.add_relu(x, x[:1]), ValueError, "residual has shape"),
        (lambda x: ops.add_relu(x, x.double()), TypeError, "residual has dtype torch.float64"),
        (lambda x: ops.add_relu(x[0], x[0]), ValueError, "x has shape"),
        (lambda x: ops.add_relu(x, 1.0), TypeError, "residual is a float"),
        (
            lambda x: ops.bn_relu(x.int(), None, None, None, None, training=True),
            TypeError,
            "x has dtype",
        ),
        (
            lambda x: ops.bn_relu(x, None, None, None, None),
            ValueError,
            "running_mean and running_var are None",
        ),
        (
            lambda x: ops.bn_relu(x, torch.ones(3), None, None, None, training=True),
            ValueError,
            "gamma has shape",
        ),
        (lambda x: ops.max_pool2d(x.int()), TypeError, "x has dtype"),
        (lambda x: ops.max_pool2d(x, 3.0), TypeError, "kernel_size is 3.0"),
        (lambda x: ops.global_avg_pool(x[0]), ValueError, "x has shape"),
        (lambda x: ops.global_avg_pool(x[:, :, :0]), ValueError, "accepted: C, H and W"),
    ],
)
def test_the_other_ops_refuse(
    call: Callable[[torch.Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(torch.randn(2, 4, 6, 6))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_an_empty_batch_touches_nothing(backend: str, device: str, training: bool) -> None:
    given = {k: v.to(device) for k, v in arguments(x=torch.randn(0, 4, 6, 6)).items()}
    residual = torch.randn(0, 8, 4, 4, device=device, requires_grad=True)
    for name in ("x", "weight", "gamma", "beta"):
        given[name].requires_grad_()
    z = ops.conv_bn_relu(**given, residual=residual, training=training)
    assert z.shape == (0, 8, 4, 4) and z.dtype == torch.float32
    z.sum().backward()
    for name in ("x", "weight", "gamma", "beta"):
        gradient = given[name].grad
        assert gradient is not None and gradient.shape == given[name].shape, (
            f"{name} got no gradient"
        )
        assert (gradient == 0).all(), f"the gradient of {name} is not zero"
    assert (given["running_mean"] == 0).all() and (given["running_var"] == 1).all()
    x = torch.randn(0, 8, 4, 4, device=device, requires_grad=True)
    vectors = [given[name] for name in ("gamma", "beta", "running_mean", "running_var")]
    ops.bn_relu(x, *vectors, training=training).sum().backward()
    ops.add_relu(x, residual).sum().backward()
    assert x.grad is not None and (given["running_mean"] == 0).all()
