"""Kernels that may start while those before them run (csrc/ptx/grid_dependency.cuh): which they are, and that nothing
of them comes before their wait, in the source under the emulator and in the machine code for Hopper."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from every_pass import every_pass
from hopper_passes import hopper_passes
from pass_checks import launches, raw
from passes import Conv, vector

from resnet_cuda import _selection
from tests.device_library import sass

# Names of launches, and mangled ones of kernels: Hopper's, which stay until all tiles are computed, and the short ones
# behind a pass, most of whose time is starting.
LAUNCHES = re.compile(r"_sm90_|finalize$|_sum_(splits|products)$|^closed_form_")
KERNELS = re.compile(
    r"persistent_gemm_kernel|expand_reduce_kernel|bottleneck_block_kernel|finalize_kernel|sum_(splits|products)_kernel|"
    r"closed_form_\w+_kernel"
)
ARCHITECTURE = "sm_90a"
WAIT, ANNOUNCE = "ACQBULK", "PREEXIT"
# Whatever reads or writes global memory; the copies of tensor maps' descriptors (UTMACCTL) are parameters.
ACCESS = re.compile(r"(LDG|LDGSTS|STG|LD|ST|REDG?|ATOMG?|UTMALDG|UTMASTG|UTMAREDG|UBLK\w+)\b")
READ_ONLY = r"LDG\.\S*CONSTANT"


def of_hopper(machine_code: list[sass.Kernel]) -> list[sass.Kernel]:
    found = [kernel for kernel in machine_code if kernel.architecture == ARCHITECTURE]
    if not found:
        pytest.skip(f"this build has no code for {ARCHITECTURE}")
    return found


def too_early(kernels: list[sass.Kernel]) -> Iterator[str]:
    """What threads of each kernel may do before they wait and must not."""
    for kernel in kernels:
        before = kernel.before(WAIT)
        wrong = [i for i in before if ACCESS.match(i) or re.match(r"EXIT|BRX|JMX|" + ANNOUNCE, i)]
        if wrong:
            yield f"{kernel.name}: before {WAIT}: {', '.join(wrong)}"


def test_launches_that_may_start_early_are_hopper_s_and_the_short_ones_behind_a_pass() -> None:
    runs = [*hopper_passes().values(), *(run for _, run in every_pass(torch.bfloat16))]
    found = {one["kernel"]: one["starts_early"] for run in runs for one in launches(run)}
    assert len(found) > 30 and set(found.values()) == {True, False}
    wrong = {name for name, early in found.items() if early != bool(LAUNCHES.search(name))}
    assert not wrong, f"{sorted(wrong)}: LAUNCHES says otherwise"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only on a GPU do kernels overlap")
def test_launches_in_a_row_give_the_same_bits_whether_they_start_early_or_not() -> None:
    conv = Conv(8, 64, 14, 14, 64)
    x, weight, _ = (t.cuda() for t in conv.random(torch.bfloat16))
    gamma, beta = (vector(64, torch.bfloat16, seed).cuda() for seed in (1, 2))
    pixels = conv.n * conv.h * conv.w

    def run() -> torch.Tensor:
        y, on_load = x, (None, None)
        for _ in range(20):
            y, sums, *_ = raw._conv_fprop(
                y, weight, *on_load, None, None, None, False, *conv.geometry, True
            )
            on_load = raw._bn_finalize(sums, pixels, gamma, beta, None, None, 0.0, 1e-5)[2:]
        return y

    with _selection.starting_early(False):
        expected = run()
    for attempt in range(20):
        assert torch.equal(run(), expected), f"attempt {attempt}: something ran ahead of its input"


def test_kernels_that_wait_are_those_that_may_start_early(machine_code: list[sass.Kernel]) -> None:
    kernels = of_hopper(machine_code)
    waiting = {kernel.name for kernel in kernels if kernel.count(WAIT)}
    assert waiting == {kernel.name for kernel in kernels if KERNELS.search(kernel.name)}
    assert waiting == {kernel.name for kernel in kernels if kernel.count(ANNOUNCE)}


def test_no_access_to_global_memory_has_moved_above_the_wait(
    machine_code: list[sass.Kernel],
) -> None:
    kernels = [kernel for kernel in of_hopper(machine_code) if kernel.count(WAIT)]
    assert len(kernels) > 100, "the kernels that wait are not in the extension"
    wrong = list(too_early(kernels))
    assert not wrong, "\n".join(wrong)


def test_kernels_that_wait_read_nothing_as_if_it_never_changed(
    machine_code: list[sass.Kernel],
) -> None:
    kernels = [kernel for kernel in of_hopper(machine_code) if kernel.count(WAIT)]
    wrong = [kernel.name for kernel in kernels if kernel.count(READ_ONLY)]
    assert not wrong, "read with ptx::load_global_input what may be written before the wait:\n" + (
        "\n".join(wrong)
    )


# ---------------------------------------------------------------- the checks themselves


def compiled(*lines: str) -> sass.Kernel:
    """Instructions 16 bytes apart, some behind a predicate."""
    kernel = sass.Kernel("kernel", ARCHITECTURE)
    for address, line in zip(range(0, 16 * len(lines), 16), lines, strict=True):
        predicate, _, instruction = line.rpartition("@P0 ")
        kernel.addresses.append(address)
        kernel.instructions.append(instruction)
        if predicate or line.startswith("@P0 "):
            kernel.predicated.add(address)
    return kernel


RIGHT = ("@P0 BRA 0x30", "SYNCS.EXCH.64 [UR4], UR6", "STS [R1], R2", WAIT, "LDG.E R0, [R2]", "EXIT")


def test_an_access_above_the_wait_is_found_on_whichever_way() -> None:
    assert not list(too_early([compiled(*RIGHT)]))
    for access in ("LDG.E R0, [R2]", "STG.E [R2], R0", "UTMALDG.2D [UR4], [UR6]", "LDGSTS.E [R1]"):
        above = compiled(*RIGHT[:2], access, *RIGHT[3:])
        assert list(too_early([above])) == [f"kernel: before {WAIT}: {access}"]
    # Behind the kernel's end, where a branch leads and comes back from.
    aside = ("@P0 BRA 0x40", WAIT, "LDG.E R0, [R2]", "EXIT", "STG.E [R2], R0", "BRA 0x10")
    assert list(too_early([compiled(*aside)])) == [f"kernel: before {WAIT}: STG.E [R2], R0"]


def test_a_thread_that_leaves_without_waiting_is_found() -> None:
    leaves = compiled("@P0 EXIT", *RIGHT[1:])
    assert list(too_early([leaves])) == [f"kernel: before {WAIT}: EXIT"]
