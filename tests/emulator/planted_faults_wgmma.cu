// Matrix products by wgmma with one planted fault each, beside twins without it.
#include <cstdint>

#include "../device_library/device_library.h"
#include "launch/launch_kernel.h"
#include "matrix_tiles.cuh"
#include "ptx/fence.cuh"
#include "ptx/keywords.h"
#include "ptx/ldmatrix.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/wgmma.cuh"

namespace rnc {
namespace {

enum class Fault {
  kNone,
  kMissingProxyFence,
  kMissingBarrier,
  kMissingWaitInLoop,
  kMissingBarrierAfterWait,
  kMissingCommit,
  kMissingLastWait,
  kMissingFence,
  kFragmentAfterFence,
  kFragmentChangedInFlight,
  kAccumulatorScaledAfterFence,
  kAccumulatorScaledWithoutFence,
  kAccumulatorWrittenInFlight,
  kAccumulatorReadInFlight,
};

// d [64][32] = x [64][64 slices] w [32][64 slices]^T. Two stages of shared memory; the wgmmas of
// one slice run while the next slice is copied.
template <Fault kFault>
__global__ void __launch_bounds__(128) multiply_shared(const __grid_constant__ ProductParams p) {
  StagedTiles& shared = dynamic_smem<StagedTiles>();
  float sums[16];
  for (int slice = 0; slice < p.slices; ++slice) {
    // Copy the slice.
    Tiles& tiles = shared.stages[slice % 2];
    copy_slice(tiles, p, slice);
    if (kFault != Fault::kMissingProxyFence) ptx::fence_proxy_async();
    if (kFault != Fault::kMissingBarrier) __syncthreads();
    // Multiply it.
    const uint64_t a = descriptor_of(tiles.a), b = descriptor_of(tiles.b);
    if (kFault != Fault::kMissingFence) ptx::wgmma_fence();
    for (int step = 0; step < 4; ++step) {
      ptx::wgmma_ss<bfloat16, 32>(sums, a + 2 * step, b + 2 * step, (slice | step) != 0);
    }
    if (kFault != Fault::kMissingCommit) ptx::wgmma_commit();
    // Wait until the other stage is free.
    if (kFault != Fault::kMissingWaitInLoop) ptx::wgmma_wait<1>();
    if (kFault != Fault::kMissingBarrierAfterWait) __syncthreads();
  }
  if (kFault != Fault::kMissingLastWait) ptx::wgmma_wait<0>();
  ptx::keep_registers(sums);
  store_sums(p, sums, threadIdx.x);
}

// The same with A in registers, and twice the sums after each slice but the last.
template <Fault kFault>
__global__ void __launch_bounds__(128) multiply_registers(const __grid_constant__ ProductParams p) {
  Tiles& tiles = dynamic_smem<StagedTiles>().stages[0];
  float sums[16], seen = 0.0f;
  for (int slice = 0; slice < p.slices; ++slice) {
    // Copy the slice, load A's fragments, and double the sums.
    copy_slice(tiles, p, slice);
    ptx::fence_proxy_async();
    __syncthreads();
    if (kFault == Fault::kFragmentAfterFence) ptx::wgmma_fence();
    uint32_t fragments[4][4];
    RNC_UNROLL
    for (int step = 0; step < 4; ++step) load_fragment(fragments[step], tiles.a, step);
    if (kFault == Fault::kAccumulatorScaledAfterFence) ptx::wgmma_fence();
    if (slice != 0) {
      RNC_UNROLL
      for (int i = 0; i < 16; ++i) sums[i] *= 2.0f;
    }
    // Multiply it.
    const bool fenced = kFault == Fault::kAccumulatorScaledAfterFence ||
                        kFault == Fault::kFragmentAfterFence ||
                        (kFault == Fault::kAccumulatorScaledWithoutFence && slice != 0);
    if (!fenced) ptx::wgmma_fence();
    RNC_UNROLL
    for (int step = 0; step < 4; ++step) {
      ptx::wgmma_rs<bfloat16, 32>(sums, fragments[step], descriptor_of(tiles.b) + 2 * step,
                                  (slice | step) != 0);
    }
    ptx::wgmma_commit();
    if (kFault == Fault::kFragmentChangedInFlight && slice == 1) fragments[2][1] ^= 0x00010000u;
    if (kFault == Fault::kAccumulatorWrittenInFlight && slice == 1) sums[5] = 1.0f;
    if (kFault == Fault::kAccumulatorReadInFlight && slice == 1) seen = sums[5];
    ptx::wgmma_wait<0>();
    ptx::keep_registers(fragments);
    __syncthreads();
  }
  ptx::keep_registers(sums);
  if (kFault == Fault::kAccumulatorReadInFlight) sums[0] += seen;
  store_sums(p, sums, threadIdx.x);
}

// Legal: two warpgroups with two products each, groups in flight, and warps that wait at different
// times.
__global__ void __launch_bounds__(256) multiply_unevenly(const __grid_constant__ ProductParams p) {
  StagedTiles& shared = dynamic_smem<StagedTiles>();
  const uint32_t group = threadIdx.x / 128, warp = threadIdx.x % 128 / 32;
  float even[16], odd[16];
  for (int slice = 0; slice < p.slices; slice += 2) {
    // Copy two slices.
    copy_slice(shared.stages[0], p, slice);
    copy_slice(shared.stages[1], p, slice + 1);
    ptx::fence_proxy_async();
    __syncthreads();
    // Multiply them into sums of their own, a commit group each.
    ptx::wgmma_fence();
    RNC_UNROLL
    for (int stage = 0; stage < 2; ++stage) {
      const Tiles& tiles = shared.stages[stage];
      for (int step = 0; step < 4; ++step) {
        ptx::wgmma_ss<bfloat16, 32>(stage == 0 ? even : odd, descriptor_of(tiles.a) + 2 * step,
                                    descriptor_of(tiles.b) + 2 * step, (slice | step) != 0);
      }
      ptx::wgmma_commit();
    }
    // Warp 0 waits first; the others begin to wait when it is through.
    if (warp == 0) ptx::wgmma_wait<1>();
    if (warp == 0) ptx::wgmma_wait<0>();
    ptx::barrier_sync(1 + group, 128);
    if (warp != 0) ptx::wgmma_wait<0>();
    __syncthreads();
  }
  ptx::keep_registers(even);
  ptx::keep_registers(odd);
  RNC_UNROLL
  for (int i = 0; i < 16; ++i) even[i] += odd[i];
  if (group == 1) store_sums(p, even, threadIdx.x % 128);
}

template <auto kKernel, uint32_t kThreads>
Status launch_product(const LaunchArguments& arguments) {
  const ProductParams params{arguments.buffer<const uint16_t>(0),
                             arguments.buffer<const uint16_t>(1), arguments.buffer<float>(2),
                             arguments.number(0)};
  return launch_kernel("wgmma_product", kKernel, Dim3{1, 1, 1}, Dim3{kThreads, 1, 1},
                       sizeof(StagedTiles), nullptr, params);
}

#define RNC_PRODUCT(name, ...) \
  const KernelRegistration name##_registration{#name, launch_product<__VA_ARGS__, 128>};
RNC_PRODUCT(shared, multiply_shared<Fault::kNone>)
RNC_PRODUCT(shared_missing_proxy_fence, multiply_shared<Fault::kMissingProxyFence>)
RNC_PRODUCT(shared_missing_barrier, multiply_shared<Fault::kMissingBarrier>)
RNC_PRODUCT(shared_missing_wait_in_loop, multiply_shared<Fault::kMissingWaitInLoop>)
RNC_PRODUCT(shared_missing_barrier_after_wait, multiply_shared<Fault::kMissingBarrierAfterWait>)
RNC_PRODUCT(shared_missing_commit, multiply_shared<Fault::kMissingCommit>)
RNC_PRODUCT(shared_missing_last_wait, multiply_shared<Fault::kMissingLastWait>)
RNC_PRODUCT(shared_missing_fence, multiply_shared<Fault::kMissingFence>)
RNC_PRODUCT(registers, multiply_registers<Fault::kNone>)
RNC_PRODUCT(registers_fragment_after_fence, multiply_registers<Fault::kFragmentAfterFence>)
RNC_PRODUCT(registers_fragment_changed, multiply_registers<Fault::kFragmentChangedInFlight>)
RNC_PRODUCT(registers_scaled_after_fence, multiply_registers<Fault::kAccumulatorScaledAfterFence>)
RNC_PRODUCT(registers_scaled_without_fence,
            multiply_registers<Fault::kAccumulatorScaledWithoutFence>)
RNC_PRODUCT(registers_accumulator_written, multiply_registers<Fault::kAccumulatorWrittenInFlight>)
RNC_PRODUCT(registers_accumulator_read, multiply_registers<Fault::kAccumulatorReadInFlight>)
const KernelRegistration uneven_registration{"uneven", launch_product<multiply_unevenly, 256>};

}  // namespace
}  // namespace rnc
