"""The tables of this folder name everything that is public."""

from __future__ import annotations

import resnet_cuda.nn
from tests.citizen.calls import MODULES, OPS, public_functions


def test_every_public_op_and_fused_module_is_in_the_tables() -> None:
    named = {name.partition(",")[0] for name in OPS}
    assert named == public_functions(), "give the op a row in tests/citizen/calls.py"
    missing = set(resnet_cuda.nn.__all__) - MODULES.keys()
    assert not missing, f"give {missing} a row in tests/citizen/calls.py"
