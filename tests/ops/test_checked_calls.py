"""A call whose like has been checked before is refused as the first one would be, and computes the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from resnet_cuda import ops, reference
from resnet_cuda.ops import _checked
from tests.ops.test_bad_input import CASES, arguments


@pytest.fixture(autouse=True)
def _nothing_known() -> Iterator[None]:
    """Calls before and behind have other signatures than these, or the same."""
    known = (_checked._known_units, _checked._known_norms, _checked._known_sums)
    for of_kind in known:
        of_kind.clear()
    yield
    for of_kind in known:
        of_kind.clear()


@pytest.mark.parametrize(
    ("changed", "error", "message"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_a_good_call_before_hides_no_bad_one(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    training = {"training": changed.get("training", False)}
    for good in ({}, {"residual": torch.randn(2, 8, 4, 4)}, training):
        ops.conv_bn_relu(**arguments(**good))
    assert _checked._known_units, "nothing is remembered: this tests nothing"
    for _ in range(2):  # nor does a bad one become good by repetition
        with pytest.raises(error, match=message):
            ops.conv_bn_relu(**arguments(**changed))


# What equals the good argument in a dictionary's eyes.
ALIKE: dict[str, dict[str, Any]] = {
    "stride is True": {"stride": True},
    "padding is False": {"padding": False},
    "dilation is (1, True)": {"dilation": (1, True)},
    "groups is True": {"groups": True},
    "momentum is True": {"momentum": True},
    "eps is False": {"eps": False},
}


@pytest.mark.parametrize("message", ALIKE)
def test_a_bool_is_no_number_behind_its_equal(message: str) -> None:
    (name,) = ALIKE[message]
    good: dict[str, Any] = {"momentum": 1.0, "eps": 0.0}
    ops.conv_bn_relu(**arguments(), **good)
    with pytest.raises(TypeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        ops.conv_bn_relu(**arguments(), **{**good, **ALIKE[message]})
    assert name in message


def test_a_bad_sum_is_refused_behind_a_good_one() -> None:
    x, other = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    ops.add_relu(x, other)
    assert _checked._known_sums
    for bad, error in (
        (other[:1], ValueError),
        (other.double(), TypeError),
        (other.to_sparse(), TypeError),
        (other.to("meta"), ValueError),
        (3.0, TypeError),
    ):
        with pytest.raises(error, match="residual"):
            ops.add_relu(x, bad)  # type: ignore[arg-type]
    one = torch.randn(1, 1, 1, 1).expand(1, 1, 1, 1).as_strided((1, 1, 1, 1), (0, 0, 0, 0))
    ops.add_relu(one, one)  # with the strides that a sparse tensor says it has
    with pytest.raises(TypeError, match="x has layout"):
        ops.add_relu(one.to_sparse(), one)


def _changed_in_place(change: Callable[[Tensor], None]) -> None:
    given = arguments()
    ops.conv_bn_relu(**given)
    change(given["gamma"])
    ops.conv_bn_relu(**given)


def test_a_tensor_that_has_become_another_is_checked_again() -> None:
    """The same object: what is compared is what it is now."""
    shorter, wider = torch.ones(4), torch.ones(8, dtype=torch.float64)
    for other, error in ((shorter, ValueError), (wider, TypeError)):
        with pytest.raises(error, match="gamma has"):
            _changed_in_place(lambda gamma, other=other: setattr(gamma, "data", other))  # type: ignore[misc]


@pytest.mark.parametrize("training", [False, True])
def test_a_call_of_known_signature_equals_plain_torch(training: bool) -> None:
    """Of other values, in other memory: strided vectors and filters, channels_last and NCHW, in turn."""
    for i in range(8):
        given = arguments(
            x=torch.randn(2, 4, 6, 6),
            gamma=torch.randn(8),
            running_mean=torch.randn(16)[:: 1 + i % 2][:8],
            running_var=torch.rand(8) + 0.5,
            residual=torch.randn(2, 8, 4, 4),
        )
        if i % 4 > 1:
            given["x"] = given["x"].contiguous(memory_format=torch.channels_last)
        expected = {k: v.clone() for k, v in given.items()}
        wanted = reference.conv_bn_relu(**expected, training=training)
        found = ops.conv_bn_relu(**given, training=training)
        torch.testing.assert_close(found, wanted)
        assert found.is_contiguous(memory_format=torch.channels_last) == (i % 4 > 1)
        torch.testing.assert_close(given["running_mean"], expected["running_mean"])


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checked, "_MOST", 5)
    for height in range(3, 23):
        ops.conv_bn_relu(**arguments(x=torch.randn(1, 4, height, 3)))
        assert len(_checked._known_units) <= 5
    assert _checked._known_units
