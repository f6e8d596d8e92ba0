// The kernels behind the wgmma probes. Operands come as images of shared memory, with descriptors
// that lack only the address, both made in Python (tests/probes/layouts.py).
#pragma once

#include "probe.cuh"
#include "ptx/fence.cuh"
#include "ptx/shared_address.cuh"
#include "ptx/wgmma.cuh"

namespace rnc::probes {

struct OperandStorage {
  alignas(1024) uint32_t a[4096];
  alignas(1024) uint32_t b[10240];
};

// What p.numbers mean.
struct WgmmaNumbers {
  static constexpr int kWordsA = 0, kWordsB = 1, kDescriptorA = 2, kDescriptorB = 3, kSteps = 4,
                       kAccumulate = 5, kStart = 6,  // bits of the accumulators' first value
      kOffsetsA = 8, kOffsetsB = 16;                 // bytes, of each step along K
};
using At = WgmmaNumbers;

// The descriptor of each step along K. They are ready before the first wgmma, so that nothing but
// wgmma stands between wgmma_fence() and wgmma_commit().
template <int kSteps>
__device__ __forceinline__ void make_descriptors(uint64_t (&descriptors)[kSteps],
                                                 const ProbeParams& p, int descriptor, int offsets,
                                                 const uint32_t* shared) {
  RNC_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    const uint32_t address =
        ptx::shared_address(shared) + static_cast<uint32_t>(p.numbers[offsets + step]);
    descriptors[step] = static_cast<uint64_t>(p.numbers[descriptor]) | (address & 0x3FFFFu) >> 4;
  }
}

// Copies the images and makes them visible to wgmma.
__device__ __forceinline__ void load_operands(OperandStorage& shared, const ProbeParams& p) {
  copy_in(shared.a, p.in[0], static_cast<uint32_t>(p.numbers[At::kWordsA]));
  copy_in(shared.b, p.in[1], static_cast<uint32_t>(p.numbers[At::kWordsB]));
  ptx::fence_proxy_async();
  __syncthreads();
}

template <int kCount>
__device__ __forceinline__ void start_at(float (&accumulators)[kCount], const ProbeParams& p) {
  const float start = __int_as_float(static_cast<int>(p.numbers[At::kStart]));
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) accumulators[i] = start;
  ptx::keep_registers(accumulators);  // nvcc must not move this behind wgmma_fence()
}

template <int kCount>
__device__ __forceinline__ void store_accumulators(uint32_t* out, float (&accumulators)[kCount]) {
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    ptx::store_global(out + threadIdx.x * kCount + i,
                      static_cast<uint32_t>(__float_as_int(accumulators[i])));
  }
}

// D = A B or D + A B over all steps, both operands in shared memory.
template <class Element, int N, int kSteps, bool kTransposeA = false, bool kTransposeB = false>
__global__ void __launch_bounds__(128) wgmma_ss_kernel(const __grid_constant__ ProbeParams p) {
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  load_operands(shared, p);
  uint64_t a[kSteps], b[kSteps];
  make_descriptors(a, p, At::kDescriptorA, At::kOffsetsA, shared.a);
  make_descriptors(b, p, At::kDescriptorB, At::kOffsetsB, shared.b);
  const bool accumulate = p.numbers[At::kAccumulate] != 0;
  float accumulators[N / 2];
  start_at(accumulators, p);
  // Issue all steps as one group.
  ptx::wgmma_fence();
  RNC_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    ptx::wgmma_ss<Element, N, kTransposeA, kTransposeB>(accumulators, a[step], b[step],
                                                        step > 0 || accumulate);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(accumulators);
  store_accumulators(p.out, accumulators);
}

// in[2]: the registers of A, step after step, thread after thread.
template <int kSteps>
__device__ __forceinline__ void load_fragments(uint32_t (&fragments)[kSteps][4],
                                               const ProbeParams& p) {
  RNC_UNROLL
  for (int i = 0; i < kSteps * 4; ++i) {
    fragments[i / 4][i % 4] = ptx::load_global(p.in[2] + (i / 4 * 128 + threadIdx.x) * 4 + i % 4);
  }
}

// The same with A in registers.
template <class Element, int N, int kSteps, bool kTransposeB = false>
__global__ void __launch_bounds__(128) wgmma_rs_kernel(const __grid_constant__ ProbeParams p) {
  OperandStorage& shared = dynamic_smem<OperandStorage>();
  load_operands(shared, p);
  uint32_t a[kSteps][4];
  uint64_t b[kSteps];
  load_fragments(a, p);
  make_descriptors(b, p, At::kDescriptorB, At::kOffsetsB, shared.b);
  const bool accumulate = p.numbers[At::kAccumulate] != 0;
  float accumulators[N / 2];
  start_at(accumulators, p);
  // Issue all steps as one group.
  ptx::wgmma_fence();
  RNC_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    ptx::wgmma_rs<Element, N, kTransposeB>(accumulators, a[step], b[step], step > 0 || accumulate);
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<0>();
  ptx::keep_registers(a);
  ptx::keep_registers(accumulators);
  store_accumulators(p.out, accumulators);
}

}  // namespace rnc::probes

#define RNC_WGMMA_PROBE(name, kernel) RNC_PROBE(name, kernel, 1, 128, sizeof(OperandStorage))
