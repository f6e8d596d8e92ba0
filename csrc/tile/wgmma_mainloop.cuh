// The consumers' main loops over a ring of stages, one wgmma group per slice.
#pragma once

#include "ptx/wgmma.cuh"
#include "tile/mbarrier_ring.cuh"

namespace rnc {

// Multiplies `slices` slices from `position` on, which moves behind them. `multiply(stage, slice)`
// issues the slice's wgmma instructions; `release(stage, condition)` gives a stage back to the
// producer, where the condition holds. The multiplication of one slice overlaps the wait for the
// next: a stage is released one slice late, the last one at the end.
template <int kStages, int kAccumulators, class Multiply, class Release>
__device__ __forceinline__ void wgmma_mainloop(MbarrierRing<kStages>& ring,
                                               RingPosition<kStages>& position, int slices,
                                               float (&accumulators)[kAccumulators],
                                               Multiply&& multiply, Release&& release) {
  int previous_stage = 0;
  for (int slice = 0; slice < slices; ++slice) {
    // Wait for the slice.
    ring.wait(position);
    // Start its multiplication.
    ptx::wgmma_fence();
    multiply(position.stage, slice);
    ptx::wgmma_commit();
    // Release the slice before: at most this one is still being read.
    ptx::wgmma_wait<1>();
    release(previous_stage, slice != 0);
    previous_stage = position.stage;
    position.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::keep_registers(accumulators);
  release(previous_stage, slices != 0);
}

// The same where consumers change a slice in shared memory before they multiply it:
// `prepare(stage, slice)` returns when all of those that read what it changed have done their part.
// It overlaps the multiplication of the slice before.
template <int kStages, int kAccumulators, class Prepare, class Multiply, class Release>
__device__ __forceinline__ void prepared_wgmma_mainloop(MbarrierRing<kStages>& ring,
                                                        RingPosition<kStages>& position, int slices,
                                                        float (&accumulators)[kAccumulators],
                                                        Prepare&& prepare, Multiply&& multiply,
                                                        Release&& release) {
  RingPosition<kStages> ahead = position;
  const auto prepare_next = [&](int slice) {
    ring.wait(ahead);
    prepare(ahead.stage, slice);
    ahead.advance();
  };
  if (slices > 0) prepare_next(0);
  ptx::keep_registers(accumulators);  // whatever they start from is there before the fence
  for (int slice = 0; slice < slices; ++slice) {
    // Start the multiplication of this slice.
    ptx::wgmma_fence();
    multiply(position.stage, slice);
    ptx::wgmma_commit();
    // Prepare the next one.
    if (slice + 1 < slices) prepare_next(slice + 1);
    // Release this one.
    ptx::wgmma_wait<0>();
    release(position.stage, true);
    position.advance();
  }
  ptx::keep_registers(accumulators);
}

// A warp's rows of half a slice as A operands in registers: wgmma steps of four.
struct HalfSliceFragments {
  static constexpr int kSteps = 2;
  uint32_t steps[kSteps][4];
};

// The same where A is multiplied out of registers: `load(stage, half, fragments)` takes half a
// slice there while the half before is multiplied, which `multiply(stage, half, fragments)` has
// issued. What a wgmma in flight reads must stay untouched, and if anything else may define it,
// ptxas makes the wgmma wait at once: each half has fragments of its own.
template <int kStages, int kAccumulators, class Load, class Multiply, class Release>
__device__ __forceinline__ void fragment_wgmma_mainloop(MbarrierRing<kStages>& ring,
                                                        RingPosition<kStages>& position, int slices,
                                                        float (&accumulators)[kAccumulators],
                                                        Load&& load, Multiply&& multiply,
                                                        Release&& release) {
  HalfSliceFragments first{}, second{};
  const auto load_first = [&] {
    ring.wait(position);
    load(position.stage, 0, first);
  };
  // Starts the multiplication of a half, and waits for the one before.
  const auto start = [&](int half, const HalfSliceFragments& fragments,
                         HalfSliceFragments& before) {
    ptx::wgmma_fence();
    multiply(position.stage, half, fragments);
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    ptx::keep_registers(before.steps);
  };
  int previous_stage = 0;
  if (slices > 0) load_first();
  ptx::keep_registers(accumulators);  // whatever they start from is there before the fence
  for (int slice = 0; slice < slices; ++slice) {
    // Start the slice's first half, release the slice before, and load the second half.
    start(0, first, second);
    release(previous_stage, slice != 0);
    load(position.stage, 1, second);
    // Start that, and load the next slice's first half.
    start(1, second, first);
    previous_stage = position.stage;
    position.advance();
    if (slice + 1 < slices) load_first();
  }
  ptx::wgmma_wait<0>();
  ptx::keep_registers(second.steps);
  ptx::keep_registers(accumulators);
  release(previous_stage, slices != 0);
}

}  // namespace rnc
