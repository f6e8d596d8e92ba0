"""Which kernels show what a mutant does: the sources to compile again, and small problems to run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tests.mutation import hopper_problems
from tests.mutation import shipped_problems as shipped
from tests.mutation.hopper_problems import SM90
from tests.mutation.shipped_problems import FIRST, SIMT, SM80
from tests.reference_kernels import problems
from tests.reference_kernels.problems import BFLOAT16, FLOAT32, Conv, Problem

REFERENCE = "tests/reference_kernels"


@dataclass(frozen=True)
class Program:
    """One source file of a library, compiled into a library of its own."""

    name: str
    library: str  # CMake's; gives the compiler's flags
    source: str


PROGRAMS = {
    program.name: program
    for program in (
        Program("ampere_gemm", problems.AMPERE, f"{REFERENCE}/ampere/gemm.cu"),
        Program("ampere_conv", problems.AMPERE, f"{REFERENCE}/ampere/conv.cu"),
        Program("hopper_gemm_ss", problems.HOPPER, f"{REFERENCE}/hopper/gemm_ss.cu"),
        Program("hopper_gemm_rs", problems.HOPPER, f"{REFERENCE}/hopper/gemm_rs.cu"),
        Program("hopper_gemm_cluster", problems.HOPPER, f"{REFERENCE}/hopper/gemm_cluster.cu"),
        Program("hopper_conv", problems.HOPPER, f"{REFERENCE}/hopper/conv.cu"),
        Program("hopper_wgrad", problems.HOPPER, f"{REFERENCE}/hopper/wgrad.cu"),
        Program(FIRST, FIRST, "tests/first_kernel/first_kernel.cu"),
        Program("simt", SIMT, "tests/mutation/simt_kernels.cu"),
        Program("sm80", SM80, "tests/mutation/sm80_kernels.cu"),
        Program("sm80_gathered", SM80, "tests/mutation/sm80_kernels.cu"),
        Program("sm80_pooled", SM80, "tests/mutation/sm80_kernels.cu"),
        Program("closed_form", SM80, "tests/mutation/closed_form_kernels.cu"),
        Program("sm90_taps", SM90, "tests/mutation/sm90_tap_kernels.cu"),
        Program("sm90_products", SM90, "tests/mutation/sm90_product_kernels.cu"),
        Program("sm90_block", SM90, "tests/mutation/sm90_block_kernels.cu"),
        Program("sm90_chain", SM90, "tests/mutation/sm90_chain_kernels.cu"),
    )
}

# The first program that notices a mutant is enough; a file of the test's folders that synchronises
# must be here.
PROGRAMS_OF_FILE = {
    "csrc/kernels/batch_norm/batch_norm_finalize.cuh": ("simt",),
    "csrc/kernels/bottleneck/bottleneck_block.cuh": ("sm90_block",),
    "csrc/kernels/bottleneck/bottleneck_expand_reduce.cuh": ("sm90_chain",),
    "csrc/kernels/bottleneck/pixel_product.cuh": ("simt",),
    "csrc/kernels/closed_form/epilogues.cuh": ("closed_form",),
    "csrc/kernels/closed_form/product.cuh": ("closed_form",),
    "csrc/kernels/closed_form/vectors.cuh": ("closed_form",),
    "csrc/kernels/conv/conv_max_pool.cuh": ("sm80_pooled",),
    "csrc/kernels/conv/direct/depthwise.cuh": ("simt",),
    "csrc/kernels/conv/implicit_gemm.cuh": ("simt", "sm80"),
    "csrc/kernels/conv/simt/mainloop.cuh": ("simt",),
    "csrc/kernels/conv/sm80/gathered.cuh": ("sm80_gathered",),
    "csrc/kernels/conv/sm90/halo_mainloop.cuh": ("sm90_taps",),
    "csrc/kernels/conv/sm90/mainloop.cuh": ("sm90_taps",),
    "csrc/kernels/conv/sm90/persistent_gemm.cuh": ("sm90_taps", "sm90_products"),
    "csrc/kernels/conv/sm90/pixel_product.cuh": ("sm90_products",),
    "csrc/kernels/conv/sm90/row_store.cuh": ("sm90_taps",),
    "csrc/kernels/conv/sum_splits.cuh": ("simt",),
    "csrc/kernels/pool/global_avg_pool.cuh": ("simt",),
    "csrc/tile/column_sums.cuh": ("simt",),
    "csrc/tile/cp_async_mainloop.cuh": ("sm80", "ampere_gemm"),
    "csrc/tile/mbarrier_ring.cuh": ("sm90_taps", "hopper_gemm_cluster", "sm90_chain"),
    "csrc/tile/register_mainloop.cuh": ("sm80_gathered",),
    "csrc/tile/thread_group.cuh": ("simt", "sm90_taps", "sm90_products"),
    "csrc/tile/wgmma_mainloop.cuh": ("sm90_taps",),
    "tests/first_kernel/first_kernel.cu": (FIRST,),
    f"{REFERENCE}/ampere/implicit_gemm.cuh": ("ampere_gemm", "ampere_conv"),
    f"{REFERENCE}/hopper/conv.cuh": ("hopper_conv",),
    f"{REFERENCE}/hopper/gemm_cluster.cuh": ("hopper_gemm_cluster",),
    f"{REFERENCE}/hopper/gemm_rs.cuh": ("hopper_gemm_rs",),
    f"{REFERENCE}/hopper/gemm_ss.cuh": ("hopper_gemm_ss",),
    f"{REFERENCE}/hopper/slices.cuh": ("hopper_gemm_ss", "hopper_conv"),
    f"{REFERENCE}/hopper/wgrad.cuh": ("hopper_wgrad",),
}


@cache
def problems_of(program: str) -> tuple[Problem, ...]:
    """Small, but with more slices than a ring has stages: every stage is used again."""
    conv = Conv(1, 7, 9, 64, 128)
    return {
        "ampere_gemm": lambda: (
            problems.gemm("ampere_gemm_bfloat16", BFLOAT16, FLOAT32, 100, 72, 200),
        ),
        "ampere_conv": lambda: (
            problems.conv_fprop("ampere_conv_bfloat16", BFLOAT16, Conv(1, 5, 7, 40, 72)),
        ),
        "hopper_gemm_ss": lambda: (
            problems.gemm("hopper_gemm_bfloat16_n128", BFLOAT16, BFLOAT16, 100, 136, 328),
            problems.gemm("hopper_gemm_tf32_n8", FLOAT32, FLOAT32, 70, 10, 164),
        ),
        "hopper_gemm_rs": lambda: (problems.gemm_rs(BFLOAT16, 70, 128, 392),),
        "hopper_gemm_cluster": lambda: (problems.gemm_cluster(100, 136, 392),),
        "hopper_conv": lambda: (
            problems.conv_fprop("hopper_conv_fprop_bfloat16", BFLOAT16, conv),
            problems.conv_dgrad(BFLOAT16, conv),
        ),
        "hopper_wgrad": lambda: (
            problems.wgrad_matrix(500, 64, 128, 2),
            problems.conv_wgrad(BFLOAT16, Conv(2, 10, 13, 64, 64), 1),
        ),
        FIRST: lambda: (shipped.scale_matrix(),),
        "simt": lambda: (
            shipped.conv_with_statistics(),
            shipped.depthwise_conv_with_statistics(),
            shipped.bn_finalize(),
            shipped.bn_backward_finalize(),
            shipped.sum_splits(),
            shipped.sum_products(),
            shipped.global_avg_pool(),
        ),
        # More slices of channels than stages, two parts of 64 rows, and a second tile of each kind.
        "sm80": lambda: (
            shipped.normalised_conv_with_statistics(
                "normalised_conv_with_statistics", BFLOAT16, 200, 72
            ),
            shipped.normalised_conv_with_statistics(
                "normalised_conv_with_statistics_tf32", FLOAT32, 100, 72
            ),
            shipped.normalised_weight_gradient("normalised_weight_gradient_tf32", FLOAT32, 72, 132),
        ),
        # The gradient of the second one comes in whole pieces, which are copied.
        "sm80_gathered": lambda: (
            shipped.normalised_conv_with_statistics(
                "gathered_conv_with_statistics", BFLOAT16, 107, 71
            ),
            shipped.normalised_weight_gradient("gathered_weight_gradient", BFLOAT16, 71, 136),
        ),
        # A whole patch and partial ones.
        "sm80_pooled": lambda: (shipped.pooled_stem(36, 72),),
        # Two tiles each way, several slices, several steps of a lane.
        "closed_form": lambda: (
            shipped.closed_form_finalize(72, 72),
            shipped.closed_form_backward(72, 72),
        ),
        # Several tiles for each block, in two parts of staged columns.
        "sm90_taps": lambda: (
            hopper_problems.conv_with_statistics(15, 20, 64, 72),
            hopper_problems.normalised_conv_with_statistics(15, 20, 64, 72),
            hopper_problems.gated_input_gradient(300, 64, 328),
            hopper_problems.halo_with_statistics(24, 40),
            hopper_problems.normalised_halo_with_statistics(24, 40),
        ),
        "sm90_products": lambda: (
            hopper_problems.weight_gradient_on_load(230, 136, 136),
            hopper_problems.gram_parts(1000, 72, 256),
        ),
        # Three parts of strips for each warpgroup, of several boxes each.
        "sm90_block": lambda: (hopper_problems.bottleneck_block(3, 24, 24),),
        # More tiles for each block than its ring has slices of x; one slice each, so that a warpgroup may run ahead.
        "sm90_chain": lambda: (hopper_problems.expand_reduce(1300, 64, 256),),
    }[program]()
