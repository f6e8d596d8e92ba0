// wgmma with both operands in shared memory. Swizzles, strides and steps are numbers of the probes.
#include "tile/smem_descriptor.h"
#include "wgmma_kernels.cuh"

namespace rnc::probes {
namespace {

RNC_WGMMA_PROBE(wgmma_ss_bf16_n8, (wgmma_ss_kernel<bfloat16, 8, 4>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n64, (wgmma_ss_kernel<bfloat16, 64, 4>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n64_ta, (wgmma_ss_kernel<bfloat16, 64, 4, true, false>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n64_tb, (wgmma_ss_kernel<bfloat16, 64, 4, false, true>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n64_ta_tb, (wgmma_ss_kernel<bfloat16, 64, 4, true, true>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n136, (wgmma_ss_kernel<bfloat16, 136, 4>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n128_tb, (wgmma_ss_kernel<bfloat16, 128, 4, false, true>))
RNC_WGMMA_PROBE(wgmma_ss_bf16_n256, (wgmma_ss_kernel<bfloat16, 256, 2>))
RNC_WGMMA_PROBE(wgmma_ss_f16_n64, (wgmma_ss_kernel<float16, 64, 4>))
RNC_WGMMA_PROBE(wgmma_ss_f16_n64_ta_tb, (wgmma_ss_kernel<float16, 64, 4, true, true>))
RNC_WGMMA_PROBE(wgmma_ss_tf32_n24, (wgmma_ss_kernel<float, 24, 4>))
RNC_WGMMA_PROBE(wgmma_ss_tf32_n64, (wgmma_ss_kernel<float, 64, 4>))
RNC_WGMMA_PROBE(wgmma_ss_tf32_n256, (wgmma_ss_kernel<float, 256, 2>))

// Two groups, the first of which is used while the second may still run: D = A B of step 0, then of
// step 1.
__global__ void __launch_bounds__(128) wgmma_groups_kernel(const __grid_constant__ ProbeParams p) {
  constexpr int kN = 32;
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  load_operands(shared, p);
  uint64_t a[2], b[2];
  make_descriptors(a, p, At::kDescriptorA, At::kOffsetsA, shared.a);
  make_descriptors(b, p, At::kDescriptorB, At::kOffsetsB, shared.b);
  float first[kN / 2], second[kN / 2];
  start_at(first, p);
  start_at(second, p);
  ptx::wgmma_fence();
  ptx::wgmma_ss<bfloat16, kN>(first, a[0], b[0], true);
  ptx::wgmma_commit();
  ptx::wgmma_ss<bfloat16, kN>(second, a[1], b[1], true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<1>();
  ptx::keep_registers(first);
  store_accumulators(p.out, first);
  ptx::wgmma_wait<0>();
  ptx::keep_registers(second);
  store_accumulators(p.out + 128 * kN / 2, second);
}
RNC_WGMMA_PROBE(wgmma_groups, wgmma_groups_kernel)

// The helpers that kernels make descriptors and swizzled offsets with, for sixteen sets of numbers.
__global__ void __launch_bounds__(16) descriptor_kernel(const __grid_constant__ ProbeParams p) {
  const uint32_t* in = p.in[0] + threadIdx.x * 4;
  uint32_t* out = p.out + threadIdx.x * 5;
  const uint32_t address = ptx::load_global(in), leading = ptx::load_global(in + 1);
  const uint32_t stride = ptx::load_global(in + 2);
  const auto swizzle = static_cast<Swizzle>(ptx::load_global(in + 3));
  const uint64_t k_major = k_major_descriptor(address, swizzle, stride, leading);
  const uint64_t mn_major = mn_major_descriptor(address, swizzle, leading, stride);
  ptx::store_global(out, static_cast<uint32_t>(k_major));
  ptx::store_global(out + 1, static_cast<uint32_t>(k_major >> 32));
  ptx::store_global(out + 2, static_cast<uint32_t>(mn_major));
  ptx::store_global(out + 3, static_cast<uint32_t>(mn_major >> 32));
  ptx::store_global(out + 4, swizzle_offset(address, swizzle));
}
RNC_PROBE(smem_descriptors, descriptor_kernel, 1, 16)

}  // namespace
}  // namespace rnc::probes
