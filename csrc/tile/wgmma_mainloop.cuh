// The consumer's main loop over a ring of stages, one wgmma group per slice.
#pragma once

#include "ptx/wgmma.cuh"
#include "tile/mbarrier_ring.cuh"

namespace rnc {

// Multiplies `slices` slices. `multiply(stage, accumulate)` issues the slice's wgmma instructions;
// `release(stage, condition)` gives a stage back to the producer, where the condition holds. The
// multiplication of one slice overlaps the wait for the next: a stage is released one slice late.
template <int kStages, int kAccumulators, class Multiply, class Release>
__device__ __forceinline__ void wgmma_mainloop(MbarrierRing<kStages>& ring, int slices,
                                               float (&accumulators)[kAccumulators],
                                               Multiply&& multiply, Release&& release) {
  RingPosition<kStages> position;
  int previous_stage = 0;
  for (int slice = 0; slice < slices; ++slice) {
    // Wait for the slice.
    ring.wait(position);
    // Start its multiplication.
    ptx::wgmma_fence();
    multiply(position.stage, slice != 0);
    ptx::wgmma_commit();
    // Release the slice before: at most this one is still being read.
    ptx::wgmma_wait<1>();
    release(previous_stage, slice != 0);
    previous_stage = position.stage;
    position.advance();
  }
  ptx::wgmma_wait<0>();
  ptx::keep_registers(accumulators);
}

}  // namespace rnc
