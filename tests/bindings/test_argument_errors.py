"""A wrong argument of a raw op raises an error that names the op, the argument, what it was and what is accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import resnet_cuda  # noqa: F401  (registers the raw ops)

raw = torch.ops.resnet_cuda
pytestmark = pytest.mark.usefixtures("emulator")


def nhwc(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(size, dtype=dtype).contiguous(memory_format=torch.channels_last)


def call(op: Callable, arguments: dict[str, Any], changed: dict[str, Any]) -> None:
    """`arguments` in order; what is not among them by name."""
    named = {name: changed.pop(name) for name in list(changed) if name not in arguments}
    op(*(arguments | changed).values(), **named)


def conv_fprop(**changed: Any) -> None:
    """A valid call, but for what `changed` replaces."""
    arguments = {
        "x": nhwc(2, 6, 5, 4),
        "weight": nhwc(8, 6, 3, 3),
        "x_scale": None,
        "x_bias": None,
        "scale": None,
        "bias": None,
        "residual": None,
        "relu": False,
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
        "statistics": False,
    }
    call(raw._conv_fprop, arguments, changed)


def conv_dgrad(**changed: Any) -> None:
    arguments = {
        "dy": nhwc(2, 8, 5, 4),
        "weight": nhwc(8, 6, 3, 3),
        "input_size": [2, 6, 5, 4],
        "addend": None,
        "act": None,
        "act_scale": None,
        "act_bias": None,
        "act_mean": None,
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
    }
    call(raw._conv_dgrad, arguments, changed)


def conv_max_pool(**changed: Any) -> None:
    arguments = {
        "x": nhwc(2, 6, 5, 4),
        "weight": nhwc(8, 6, 3, 3),
        "scale": torch.zeros(8),
        "bias": torch.zeros(8),
        "stride": [1, 1],
        "padding": [1, 1],
        "dilation": [1, 1],
        "groups": 1,
    }
    raw._conv_max_pool(*(arguments | changed).values())


def add_relu(x: Tensor, residual: Tensor) -> None:
    raw._add_relu_forward(x, residual, True)


def bottleneck_expand(**changed: Any) -> None:
    arguments = {
        "x": nhwc(2, 4, 3, 3),
        "weight": nhwc(8, 4, 1, 1),
        "scale": torch.zeros(8),
        "bias": torch.zeros(8),
        "residual": None,
        "projection_weight": None,
        "projection_scale": None,
        "projection_bias": None,
        "projection_stride": 1,
        "relu": True,
        "statistics": False,
    }
    call(raw._bottleneck_expand, arguments, changed)


def bottleneck_expand_reduce(**changed: Any) -> None:
    arguments = {
        "x": nhwc(2, 4, 3, 3),
        "weight": nhwc(8, 4, 1, 1),
        "scale": torch.zeros(8),
        "bias": torch.zeros(8),
        "residual": nhwc(2, 8, 3, 3),
        "next_weight": nhwc(6, 8, 1, 1),
        "next_scale": torch.zeros(6),
        "next_bias": torch.zeros(6),
    }
    raw._bottleneck_expand_reduce(*(arguments | changed).values())


def bottleneck_block(**changed: Any) -> None:
    arguments = {
        "x": nhwc(2, 8, 3, 3),
        "reduce_weight": nhwc(4, 8, 1, 1),
        "reduce_scale": torch.zeros(4),
        "reduce_bias": torch.zeros(4),
        "convolve_weight": nhwc(4, 4, 3, 3),
        "convolve_scale": torch.zeros(4),
        "convolve_bias": torch.zeros(4),
        "expand_weight": nhwc(8, 4, 1, 1),
        "expand_scale": torch.zeros(8),
        "expand_bias": torch.zeros(8),
    }
    raw._bottleneck_block(*(arguments | changed).values())


def bottleneck_expand_dgrad(**changed: Any) -> None:
    arguments = {
        "dz": nhwc(2, 16, 3, 3),
        "mask": None,
        "weight": torch.zeros(16, 8),
        "x": nhwc(2, 8, 3, 3),
        "x_scale": None,
        "x_bias": None,
        "x_floor": None,
        "matrix": torch.zeros(8, 8),
        "bias": torch.zeros(8),
        "stride": 1,
        "act_scale": None,
        "act_bias": None,
        "act_mean": None,
    }
    call(raw._bottleneck_expand_dgrad, arguments, changed)


def closed_form_finalize(**changed: Any) -> None:
    arguments = {
        "weight": nhwc(16, 8, 1, 1),
        "sums": torch.zeros(8).double(),
        "gram": torch.zeros(8, 8).double(),
        "shift": torch.zeros(8),
        "rows": 18,
        "rows_of_all": None,
        "own_sums": None,
        **dict.fromkeys(("gamma", "beta", "running_mean", "running_var")),
        "momentum": 0.1,
        "eps": 1e-5,
    }
    call(raw._closed_form_finalize, arguments, changed)


def closed_form_backward(**changed: Any) -> None:
    channels, filters = torch.zeros(8).double(), torch.zeros(16).double()
    arguments = {
        "weight": nhwc(16, 8, 1, 1),
        "product": torch.zeros(16, 8).double(),
        "sums": filters,
        "gram": torch.zeros(8, 8).double(),
        "mean": channels,
        "excess": None,
        "moments": None,
        "shift": torch.zeros(8),
        "invstd": filters,
        "gamma": None,
        "dgamma_of_all": filters,
        "sums_of_all": filters,
        "rows": 18,
        "rows_of_all": None,
        "weight_grad": True,
        "input_grad": True,
    }
    call(raw._closed_form_backward_finalize, arguments, changed)


def bn_finalize(**changed: Any) -> None:
    arguments = {
        "partials": torch.zeros(2, 2, 5),
        "rows": 100,
        "gamma": None,
        "beta": None,
        "running_mean": None,
        "running_var": None,
        "momentum": 0.1,
        "eps": 1e-5,
    }
    raw._bn_finalize(*(arguments | changed).values())


CHANNELS_LAST = "expected dense channels_last memory"
X = nhwc(2, 6, 5, 4)

CASES: dict[str, tuple[Callable[[], None], list[str]]] = {
    "nchw memory": (
        lambda: add_relu(torch.zeros(2, 6, 5, 4), X),
        ["_add_relu_forward: x has shape [2, 6, 5, 4] and strides [120, 20, 4, 1]", CHANNELS_LAST],
    ),
    "expanded": (
        lambda: add_relu(X, nhwc(1, 6, 5, 4).expand(2, 6, 5, 4)),
        ["residual", CHANNELS_LAST],
    ),
    "overlapping": (
        lambda: add_relu(torch.zeros(60).as_strided((2, 6, 2, 2), (12, 1, 6, 6)), nhwc(2, 6, 2, 2)),
        ["x has shape", CHANNELS_LAST],
    ),
    "a channel slice": (
        lambda: add_relu(nhwc(2, 8, 5, 4)[:, :6], X),
        ["x has shape", CHANNELS_LAST],
    ),
    "rank": (lambda: add_relu(X[0], X), ["x has shape [6, 5, 4], expected 4 dimensions"]),
    "an empty batch": (
        lambda: add_relu(X[:0], X[:0]),
        ["x has shape [0, 6, 5, 4], expected no empty"],
    ),
    "another shape": (
        lambda: add_relu(X, nhwc(2, 6, 4, 5)),
        ["residual has shape [2, 6, 4, 5], expected [2, 6, 5, 4]"],
    ),
    "a mix of dtypes": (
        lambda: add_relu(X, X.double()),
        ["residual has dtype float64, expected the dtype of x, float32"],
    ),
    "an integer dtype": (
        lambda: add_relu(X.int(), X.int()),
        ["x has dtype int32, expected float64, float32, bfloat16 or float16"],
    ),
    "stride 0": (lambda: conv_fprop(stride=[1, 0]), ["stride contains 0, expected values from 1"]),
    "negative padding": (lambda: conv_fprop(padding=[-1, 0]), ["padding contains -1, expected"]),
    "dilation 0": (lambda: conv_fprop(dilation=[0, 1]), ["dilation contains 0, expected"]),
    "a stride beyond 32 bits": (
        lambda: conv_fprop(stride=[2**31, 1]),
        ["stride contains 2147483648"],
    ),
    "three paddings": (lambda: conv_fprop(padding=[1, 1, 1]), ["padding has 3 values, expected 2"]),
    "a padding whose image overflows": (
        lambda: conv_fprop(padding=[2**31 - 1, 1]),
        ["the padded height is 4294967299, expected below 2^31"],
    ),
    "an output that overflows": (
        lambda: conv_fprop(padding=[30000, 30000]),
        ["the output would be 2 x 60003 x 60002 pixels, expected fewer than 2^31"],
    ),
    "groups that do not divide": (
        lambda: conv_fprop(groups=4),
        ["groups is 4, expected a divisor"],
    ),
    "groups 0": (lambda: conv_fprop(groups=0), ["groups is 0, expected a divisor"]),
    "a channel mismatch": (
        lambda: conv_fprop(groups=2),
        ["weight has 6 channels in each filter, expected x's channels / groups, 3"],
    ),
    "a window larger than the image": (
        lambda: conv_fprop(padding=[0, 0], dilation=[3, 1]),
        ["weight's window spans 7 of the height, expected at most the padded height of x, 5"],
    ),
    "a residual of another shape": (
        lambda: conv_fprop(residual=nhwc(2, 8, 5, 5)),
        ["residual has shape [2, 8, 5, 5], expected [2, 8, 5, 4]"],
    ),
    "a scale of another length": (
        lambda: conv_fprop(scale=torch.zeros(7)),
        ["scale has shape [7], expected [8]"],
    ),
    "a scale of the storage dtype": (
        lambda: conv_fprop(
            x=X.bfloat16(), weight=nhwc(8, 6, 3, 3).bfloat16(), scale=torch.zeros(8).bfloat16()
        ),
        ["scale has dtype bfloat16, expected float32"],
    ),
    "a strided bias": (lambda: conv_fprop(bias=torch.zeros(16)[::2]), ["bias is not contiguous"]),
    "half a prologue": (
        lambda: conv_fprop(x_scale=torch.zeros(6)),
        ["x_bias is None, expected a tensor because x_scale is given"],
    ),
    "statistics of an epilogue": (
        lambda: conv_fprop(statistics=True, relu=True),
        ["statistics is True, expected scale, bias and residual None, relu and mask False"],
    ),
    "a floor without a scale": (
        lambda: conv_fprop(x_floor=torch.zeros(6)),
        ["x_scale is None, expected a tensor because x_floor is given"],
    ),
    "a residual of another image": (
        lambda: conv_fprop(residual=nhwc(2, 6, 9, 9), residual_stride=2),
        ["residual has shape [2, 6, 9, 9] with a stride of 2, expected an image of 2 x 5 x 4"],
    ),
    "a residual of more channels": (
        lambda: conv_fprop(residual=nhwc(2, 9, 9, 7), residual_stride=2),
        ["residual has shape [2, 9, 9, 7]", "at most 8 channels"],
    ),
    "a sampled residual of what is normalised on load": (
        lambda: conv_fprop(
            residual=nhwc(2, 8, 9, 7),
            residual_stride=2,
            x_scale=torch.zeros(6),
            x_bias=torch.zeros(6),
        ),
        ["residual is sampled and x_scale is given, expected at most one"],
    ),
    "a residual every 0 pixels": (
        lambda: conv_fprop(residual=nhwc(2, 8, 5, 4), residual_stride=0),
        ["residual_stride is 0, expected 1 to"],
    ),
    "a scale of no residual": (
        lambda: conv_fprop(residual_scale=torch.zeros(8)),
        ["residual is None, expected a tensor because residual_scale is given"],
    ),
    "a scale of a projected residual": (
        lambda: bottleneck_expand(residual_scale=torch.zeros(8)),
        ["residual_scale is given, expected a residual that is not projected"],
    ),
    "bits of 7 channels": (
        lambda: conv_fprop(weight=nhwc(7, 6, 3, 3), mask=True),
        ["mask is True with 7 filters in each group of weight, expected a multiple of 8"],
    ),
    "bits of 4 expanded channels": (
        lambda: bottleneck_expand(
            weight=nhwc(4, 4, 1, 1), scale=torch.zeros(4), bias=torch.zeros(4), mask=True
        ),
        ["mask is True with 4 filters of weight, expected a multiple of 8"],
    ),
    "an addend of fewer channels": (
        lambda: conv_dgrad(addend=nhwc(2, 5, 5, 4)),
        ["addend has 5 channels, expected at least x's, 6"],
    ),
    "an addend of another stride": (
        lambda: conv_dgrad(addend=X, addend_stride=2),
        ["addend has shape [2, 6, 5, 4], expected [2, 6, 3, 2]"],
    ),
    "a stride of 0 pixels": (
        lambda: conv_dgrad(addend=X, addend_stride=0),
        ["addend_stride is 0, expected a value from 1"],
    ),
    "bits of no addend": (
        lambda: conv_dgrad(addend_mask=torch.zeros(30, dtype=torch.uint8)),
        ["addend is None, expected a tensor because addend_mask is given"],
    ),
    "bits of 6 channels": (
        lambda: conv_dgrad(addend=X, addend_mask=torch.zeros(30, dtype=torch.uint8)),
        ["addend_mask is given with 6 channels of addend for 6 of x, expected multiples of 8"],
    ),
    "dy of another shape": (
        lambda: conv_dgrad(dy=nhwc(2, 8, 4, 4)),
        ["_conv_dgrad: dy has shape [2, 8, 4, 4], expected [2, 8, 5, 4]"],
    ),
    "three input sizes": (
        lambda: conv_dgrad(input_size=[2, 6, 5]),
        ["input_size is [2, 6, 5], expected four sizes"],
    ),
    "input sizes beyond 32 bits": (
        lambda: conv_dgrad(input_size=[1, 6, 65536, 65536]),
        ["input_size is [1, 6, 65536, 65536], expected fewer than 2^31 pixels"],
    ),
    "a gate without its activation": (
        lambda: conv_dgrad(act_mean=torch.zeros(6)),
        ["act is None, expected a tensor because act_mean is given"],
    ),
    "filters that are not 1x1": (
        lambda: bottleneck_expand(weight=nhwc(8, 4, 3, 3)),
        ["_bottleneck_expand: weight has 3x3 filters, expected 1x1"],
    ),
    "filters of the next block that are not 1x1": (
        lambda: bottleneck_expand_reduce(next_weight=nhwc(6, 8, 1, 3)),
        ["_bottleneck_expand_reduce: next_weight has 1x3 filters, expected 1x1"],
    ),
    "filters of the next block for other channels": (
        lambda: bottleneck_expand_reduce(next_weight=nhwc(6, 4, 1, 1)),
        ["next_weight has 4 channels in each filter, expected the filters of weight, 8"],
    ),
    "filters that begin a block and are not 1x1": (
        lambda: bottleneck_block(reduce_weight=nhwc(4, 8, 3, 1)),
        ["_bottleneck_block: reduce_weight has 3x1 filters, expected 1x1"],
    ),
    "filters inside a block that are not 3x3": (
        lambda: bottleneck_block(convolve_weight=nhwc(4, 4, 1, 1)),
        ["convolve_weight has shape [4, 4, 1, 1], expected [4, 4, 3, 3]"],
    ),
    "filters that end a block with other channels": (
        lambda: bottleneck_block(expand_weight=nhwc(6, 4, 1, 1)),
        ["expand_weight has shape [6, 4, 1, 1], expected [8, 4, 1, 1]"],
    ),
    "a vector of a block with other channels": (
        lambda: bottleneck_block(expand_bias=torch.zeros(4)),
        ["expand_bias has shape [4], expected [8]"],
    ),
    "a shortcut of another shape": (
        lambda: bottleneck_expand_reduce(residual=nhwc(2, 4, 3, 3)),
        ["residual has shape [2, 4, 3, 3], expected [2, 8, 3, 3]"],
    ),
    "a projection without a residual": (
        lambda: bottleneck_expand(
            projection_weight=nhwc(8, 4, 1, 1),
            projection_scale=torch.zeros(8),
            projection_bias=torch.zeros(8),
        ),
        ["residual is None, expected a tensor because projection_weight is given"],
    ),
    "a projection to another size": (
        lambda: bottleneck_expand(
            residual=nhwc(2, 4, 6, 6),
            projection_weight=nhwc(8, 4, 1, 1),
            projection_scale=torch.zeros(8),
            projection_bias=torch.zeros(8),
        ),
        ["the projected residual has 2x8x6x6 elements, expected 2x8x3x3"],
    ),
    "running statistics of another length": (
        lambda: bn_finalize(running_mean=torch.zeros(4), running_var=torch.zeros(5)),
        ["_bn_finalize: running_mean has shape [4], expected [5]"],
    ),
    "a Gram matrix of 12 channels": (
        lambda: raw._bottleneck_gram(nhwc(2, 12, 3, 3), None, None, None, 1),
        ["_bottleneck_gram: x has 12 channels, expected a multiple of 8"],
    ),
    "filters of a window in closed form": (
        lambda: closed_form_finalize(weight=nhwc(16, 8, 3, 3)),
        ["_closed_form_finalize: weight has 3x3 filters, expected 1x1"],
    ),
    "12 filters in closed form": (
        lambda: closed_form_finalize(weight=nhwc(12, 8, 1, 1)),
        ["_closed_form_finalize: weight has 12 filters, expected a multiple of 8"],
    ),
    "filters of 12 channels in closed form": (
        lambda: closed_form_finalize(weight=nhwc(16, 12, 1, 1)),
        ["weight has 12 channels in each filter, expected a multiple of 8"],
    ),
    "a Gram matrix in float32": (
        lambda: closed_form_finalize(gram=torch.zeros(8, 8)),
        ["_closed_form_finalize: gram has dtype float32, expected float64"],
    ),
    "a Gram matrix of another size": (
        lambda: closed_form_finalize(gram=torch.zeros(8, 16).double()),
        ["gram has shape [8, 16], expected [8, 8]"],
    ),
    "a negative number of rows": (
        lambda: closed_form_finalize(rows=-1),
        ["_closed_form_finalize: rows is -1, expected 0 or more"],
    ),
    "rows of all ranks without the rank's own sums": (
        lambda: closed_form_finalize(rows_of_all=torch.tensor(3.0).double()),
        ["own_sums is None, expected a tensor because rows_of_all is given"],
    ),
    "one number of rows for each rank": (
        lambda: closed_form_finalize(
            rows_of_all=torch.zeros(2).double(), own_sums=torch.zeros(8).double()
        ),
        ["rows_of_all has shape [2], expected []"],
    ),
    "a gradient in closed form that nobody wants": (
        lambda: closed_form_backward(weight_grad=False, input_grad=False),
        ["weight_grad and input_grad are both false, expected at least one"],
    ),
    "an excess without what the filters make of it": (
        lambda: closed_form_backward(excess=torch.zeros(8).double()),
        ["moments is None, expected a tensor because excess is given"],
    ),
    "a gradient of 12 channels": (
        lambda: bottleneck_expand_dgrad(dz=nhwc(2, 12, 3, 3)),
        ["_bottleneck_expand_dgrad: dz has 12 channels, expected a multiple of 8"],
    ),
    "a gradient of other pixels": (
        lambda: bottleneck_expand_dgrad(stride=2),
        ["dz has shape [2, 16, 3, 3], expected [2, 16, 2, 2]"],
    ),
    "bits of another length": (
        lambda: bottleneck_expand_dgrad(mask=torch.zeros(35, dtype=torch.uint8)),
        ["mask has shape [35], expected [36]"],
    ),
    "filters of another shape": (
        lambda: bottleneck_expand_dgrad(weight=torch.zeros(8, 16)),
        ["weight has shape [8, 16], expected [16, 8]"],
    ),
    "a matrix in another memory order": (
        lambda: bottleneck_expand_dgrad(weight=torch.zeros(8, 16).T),
        ["weight is not contiguous"],
    ),
    "a mean without a gate": (
        lambda: bottleneck_expand_dgrad(act_mean=torch.zeros(8)),
        ["act_scale is None, expected a tensor because act_mean is given"],
    ),
    "a gate of sampled pixels": (
        lambda: bottleneck_expand_dgrad(
            x=nhwc(2, 8, 5, 5), stride=2, act_scale=torch.zeros(8), act_bias=torch.zeros(8)
        ),
        ["act_scale is given with stride 2, expected 1"],
    ),
    "a floor of a projection that is not there": (
        lambda: bottleneck_expand(
            projection_x_scale=torch.zeros(8), projection_x_bias=torch.zeros(8)
        ),
        ["projection_weight is None, expected a tensor because projection_x_scale is given"],
    ),
    "half of the running statistics": (
        lambda: bn_finalize(running_mean=torch.zeros(5)),
        ["running_var is None, expected a tensor because running_mean is given"],
    ),
    "rows that do not fit the partials": (
        lambda: bn_finalize(rows=129),
        ["partials has shape [2, 2, 5], expected [3, 2, 5]"],
    ),
    "rows 0": (lambda: bn_finalize(rows=0), ["rows is 0, expected 1 to 2^31 - 1"]),
    "a mask of another length": (
        lambda: raw._add_relu_backward(X, torch.zeros(29, dtype=torch.uint8)),
        ["mask has shape [29], expected [30]"],
    ),
    "a mask of another dtype": (
        lambda: raw._add_relu_backward(X, torch.zeros(30)),
        ["mask has dtype float32, expected uint8"],
    ),
    "two gates": (
        lambda: raw._bn_backward_reduce(
            X,
            X,
            torch.zeros(6),
            torch.zeros(30, dtype=torch.uint8),
            torch.zeros(6),
            torch.zeros(6),
        ),
        ["mask and gate_scale are both given, expected at most one"],
    ),
    "a scale of another size before a pool": (
        lambda: conv_max_pool(scale=torch.zeros(7)),
        ["_conv_max_pool: scale has shape [7], expected [8]"],
    ),
    "filters larger than the image before a pool": (
        lambda: conv_max_pool(weight=nhwc(8, 6, 9, 3)),
        ["weight's window spans 9 of the height, expected at most the padded height of x, 7"],
    ),
    "a window that argmax cannot hold": (
        lambda: raw._max_pool_forward(nhwc(1, 1, 20, 20), 16, 1, 0, True),
        ["_max_pool_forward: kernel is 16, expected 1 to 15"],
    ),
    "a padding beyond half the window": (
        lambda: raw._max_pool_forward(X, 3, 2, 2, True),
        ["padding is 2, expected 0 to half the kernel, 1"],
    ),
    "argmax of another shape": (
        lambda: raw._max_pool_backward(
            nhwc(2, 6, 3, 2), torch.zeros(2, 6, 3, 3, dtype=torch.uint8), [2, 6, 5, 4], 3, 2, 1
        ),
        ["argmax has shape [2, 6, 3, 3], expected [2, 6, 3, 2]"],
    ),
    "a pooled gradient that is not 1x1": (
        lambda: raw._global_avg_pool_backward(X, [2, 6, 5, 4]),
        ["dy has shape [2, 6, 5, 4], expected [2, 6, 1, 1]"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_argument_is_named_with_what_is_accepted(case: str) -> None:
    call, parts = CASES[case]
    with pytest.raises(RuntimeError) as error:
        call()
    for part in parts:
        assert part in str(error.value), (
            f"the message of '{case}' must contain {part!r}: {error.value}"
        )


def test_the_valid_calls_that_the_cases_start_from_are_valid() -> None:
    conv_fprop()
    conv_dgrad()
    conv_max_pool()
    bottleneck_expand()
    bottleneck_expand_reduce()
    bottleneck_block()
    bn_finalize()
    add_relu(X, X)


def test_strides_of_dimensions_of_size_one_do_not_matter() -> None:
    x = torch.ones(3, 5, 1, 1)  # contiguous both ways, with strides of either
    odd = torch.ones(15).as_strided((3, 5, 1, 1), (5, 1, 77, 3))
    z, _ = raw._add_relu_forward(x, odd, False)
    assert torch.equal(z, torch.full_like(x, 2))
