"""Stage `device`: what the machine is, whether it can be used, and its ceilings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.hardware.protocol import say

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

# The oldest architecture that the extension is compiled for (cmake/RncCuda.cmake).
OLDEST = (8, 0)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def run(context: Context) -> int:
    from resnet_cuda.bench.ceilings import measure_ceilings
    from resnet_cuda.bench.device import open_device

    why = "" if context.dry else unusable(torch.cuda)
    if why:
        say("section", ["unusable", why])
        return 1
    device = open_device(context.device)
    say("section", ["environment", device.facts()])
    say("section", ["ceilings", measure_ceilings(device, DTYPES).to_json()])
    return 0


def unusable(cuda: Any) -> str:
    """Why the kernels cannot run on torch's current GPU; "" where they can. `cuda`: torch.cuda."""
    needed = f"a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer is needed"
    try:
        if not cuda.is_available():
            built = torch.version.cuda or "no CUDA"
            return f"torch {torch.__version__} (built for {built}) finds no GPU; {needed}"
        capability = cuda.get_device_capability()
        name = cuda.get_device_name()
    except Exception as error:  # a driver that does not fit may raise anything
        return f"torch cannot use the GPU: {type(error).__name__}: {error}; {needed}"
    if capability < OLDEST:
        return f"{name} has compute capability {capability[0]}.{capability[1]}; {needed}"
    return ""
