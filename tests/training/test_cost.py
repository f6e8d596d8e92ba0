"""Costs against the papers' counts."""

from __future__ import annotations

import pytest
import torch

from resnet_cuda import models
from resnet_cuda.training.cost import cost_of


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("cifar_resnet20", 269_722, 40_551_040),
        ("cifar_plain56", 853_018, 125_485_696),
        ("wrn_16_8", 10_961_370, 1_548_145_664),
    ],
)
def test_costs_are_those_of_the_papers(name: str, parameters: int, macs: int) -> None:
    with torch.device("meta"):
        model = models.create_model(name, num_classes=10)
    assert cost_of(model, (3, 32, 32)) == (parameters, macs)
