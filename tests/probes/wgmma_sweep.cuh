// wgmma of every N from 8 to 256: one kernel each, all launched by one probe. A thread's
// accumulators are folded into 16 bits that depend on each of them and on their order.
#pragma once

#include <utility>

#include "wgmma_kernels.cuh"

namespace rnc::probes {

template <int kCount>
__device__ __forceinline__ void store_folded(uint32_t* out, const float (&accumulators)[kCount]) {
  uint32_t word = 0;
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    word = word * 31 + static_cast<uint32_t>(static_cast<int>(accumulators[i]));
  }
  ptx::store_global(out + (kCount / 4 - 1) * 128 + threadIdx.x, word & 0xFFFFu);
}

template <class Element, int N>
__global__ void __launch_bounds__(128) ss_width_kernel(const __grid_constant__ ProbeParams p) {
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  load_operands(shared, p);
  uint64_t a[1], b[1];
  make_descriptors(a, p, At::kDescriptorA, At::kOffsetsA, shared.a);
  make_descriptors(b, p, At::kDescriptorB, At::kOffsetsB, shared.b);
  float accumulators[N / 2];
  start_at(accumulators, p);
  ptx::wgmma_fence();
  ptx::wgmma_ss<Element, N>(accumulators, a[0], b[0], true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(accumulators);
  store_folded(p.out, accumulators);
}

template <class Element, int N>
__global__ void __launch_bounds__(128) rs_width_kernel(const __grid_constant__ ProbeParams p) {
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  load_operands(shared, p);
  uint32_t a[1][4];
  uint64_t b[1];
  load_fragments(a, p);
  make_descriptors(b, p, At::kDescriptorB, At::kOffsetsB, shared.b);
  float accumulators[N / 2];
  start_at(accumulators, p);
  ptx::wgmma_fence();
  ptx::wgmma_rs<Element, N>(accumulators, a[0], b[0], true);
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(a);
  ptx::keep_registers(accumulators);
  store_folded(p.out, accumulators);
}

using WidthKernel = void (*)(ProbeParams);

template <class Element, bool kRegisters, int N>
constexpr WidthKernel width_kernel() {
  if constexpr (kRegisters) {
    return rs_width_kernel<Element, N>;
  } else {
    return ss_width_kernel<Element, N>;
  }
}

template <class Element, bool kRegisters, int... kIndices>
Status launch_widths(const LaunchArguments& arguments, std::integer_sequence<int, kIndices...>) {
  Status status;
  for (const WidthKernel kernel : {width_kernel<Element, kRegisters, 8 * (kIndices + 1)>()...}) {
    if (!status.ok()) break;
    status = launch_kernel("wgmma_every_n", kernel, Dim3{1, 1, 1}, Dim3{128, 1, 1},
                           sizeof(OperandStorage), nullptr, probe_params(arguments));
  }
  return status;
}

template <class Element, bool kRegisters>
Status launch_every_width(const LaunchArguments& arguments) {
  return launch_widths<Element, kRegisters>(arguments, std::make_integer_sequence<int, 32>{});
}

}  // namespace rnc::probes
