// wgmma with A in registers.
#include "wgmma_kernels.cuh"

namespace rnc::probes {
namespace {

RNC_WGMMA_PROBE(wgmma_rs_bf16_n8, (wgmma_rs_kernel<bfloat16, 8, 2>))
RNC_WGMMA_PROBE(wgmma_rs_bf16_n64, (wgmma_rs_kernel<bfloat16, 64, 2>))
RNC_WGMMA_PROBE(wgmma_rs_bf16_n64_tb, (wgmma_rs_kernel<bfloat16, 64, 2, true>))
RNC_WGMMA_PROBE(wgmma_rs_bf16_n200, (wgmma_rs_kernel<bfloat16, 200, 2>))
RNC_WGMMA_PROBE(wgmma_rs_f16_n96, (wgmma_rs_kernel<float16, 96, 2>))
RNC_WGMMA_PROBE(wgmma_rs_f16_n128_tb, (wgmma_rs_kernel<float16, 128, 2, true>))
RNC_WGMMA_PROBE(wgmma_rs_tf32_n48, (wgmma_rs_kernel<float, 48, 2>))

}  // namespace
}  // namespace rnc::probes
