"""For tests and benchmarks: the emulated kernels, the tolerance rule, gradient checks and tables
of problems."""

from resnet_cuda.testing import problems
from resnet_cuda.testing.emulated import Emulation, emulated
from resnet_cuda.testing.numeric import (
    assert_close_to_fp64,
    away_from_gate,
    check_gradient_rule,
    check_rule,
    gradcheck_op,
)

__all__ = [
    "Emulation",
    "assert_close_to_fp64",
    "away_from_gate",
    "check_gradient_rule",
    "check_rule",
    "emulated",
    "gradcheck_op",
    "problems",
]
