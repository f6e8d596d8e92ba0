"""Stage `device`: what the machine is, whether it can be used, its ceilings, and who is here to be compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from benchmarks.hardware.affected import ROOT
from benchmarks.hardware.protocol import say

if TYPE_CHECKING:
    from benchmarks.hardware.child import Context

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# For copies of the tree without its .git: whoever makes one may write the commit there.
COMMIT_FILE = ROOT / "COMMIT"


def run(context: Context) -> int:
    from resnet_cuda.bench import peers
    from resnet_cuda.bench.ceilings import measure_ceilings
    from resnet_cuda.bench.device import open_device
    from resnet_cuda.bench.environment import environment, settings
    from resnet_cuda.bench.harness import self_comparison

    try:
        device = open_device(context.device)
    except Exception as error:  # a driver that does not fit may raise anything
        say("section", ["unusable", str(error) or type(error).__name__])
        return 1
    say("section", ["environment", with_commit(environment(device))])
    with settings(device):
        say("section", ["ceilings", measure_ceilings(device, DTYPES).to_json()])
        say("section", ["harness", self_comparison(device)])
    say("section", ["peers", peers.presence()])
    return 0


def with_commit(found: dict[str, Any]) -> dict[str, Any]:
    if found.get("commit"):
        return found
    try:
        commit = COMMIT_FILE.read_text().split()[0]
    except (OSError, IndexError):
        commit = "unknown"
    return {**found, "commit": commit}
