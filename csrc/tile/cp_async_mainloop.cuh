// The main loop over a ring of stages that all threads of a block fill by cp.async and read
// together.
#pragma once

#include "ptx/cp_async.cuh"
#include "tile/ring_position.cuh"

namespace rnc {

// `fill(stage, slice)` starts this thread's copies of a slice, `arrived(stage, slice)` may change
// what it has copied itself, `multiply(stage)` reads a stage that is complete. kStages - 1 slices
// are in flight. Afterwards no copy is.
template <int kStages, class Fill, class Arrived, class Multiply>
__device__ __forceinline__ void cp_async_mainloop(int slices, Fill&& fill, Arrived&& arrived,
                                                  Multiply&& multiply) {
  constexpr int kInFlight = kStages - 1;
  // Start the first slices. Every slice is one group, those past the end are empty: so the number
  // of groups still in flight always says which slice has arrived.
  RingPosition<kStages> filling;
  for (int slice = 0; slice < kInFlight; ++slice) {
    if (slice < slices) fill(filling.stage, slice);
    ptx::cp_async_commit();
    filling.advance();
  }
  RingPosition<kStages> reading;
  for (int slice = 0; slice < slices; ++slice) {
    // Wait for this slice; then every thread has also finished with the stage read before.
    ptx::cp_async_wait<kInFlight - 1>();
    arrived(reading.stage, slice);
    __syncthreads();
    // Refill that stage.
    if (slice + kInFlight < slices) fill(filling.stage, slice + kInFlight);
    ptx::cp_async_commit();
    filling.advance();
    // Multiply this one.
    multiply(reading.stage);
    reading.advance();
  }
  // Release the last stage.
  __syncthreads();
}

}  // namespace rnc
