"""The passes of a fused call in training, with the bytes that each must move.

The executor of branches itself is run, forward and backward, on tensors without values, and every
operation that it dispatches is noted. So there is no second description of its passes.
"""

from resnet_cuda.trace.passes import AGAIN, BACKWARD, FORWARD, TORCH, Bytes, Pass, Trace
from resnet_cuda.trace.recorder import calls_of, on_kernels, trace

__all__ = [
    "AGAIN",
    "BACKWARD",
    "FORWARD",
    "TORCH",
    "Bytes",
    "Pass",
    "Trace",
    "calls_of",
    "on_kernels",
    "trace",
]
