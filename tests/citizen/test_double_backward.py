"""Finite differences against the gradients of every public op, and against the gradients of these."""

from __future__ import annotations

import pytest

from resnet_cuda.testing import gradcheck_op
from tests.citizen.calls import CASES, problem


@pytest.mark.parametrize(("name", "training"), CASES)
def test_first_and_second_derivatives(backend: str, name: str, training: bool) -> None:
    call, leaves = problem(name, training=training)
    gradcheck_op(call, leaves, fast=True)
