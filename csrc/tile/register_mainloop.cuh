// The main loop over two stages that all threads of a block fill through registers and read
// together.
#pragma once

#include "ptx/keywords.h"

namespace rnc {

// `fetch(slice)` loads this thread's share of a slice into registers, `put(stage, slice)` stores
// what was fetched last, `multiply(stage, slice)` reads a stage that is complete. A slice is
// fetched while the one before it is multiplied. There is at least one slice. Afterwards nobody
// reads a stage.
template <class Fetch, class Put, class Multiply>
__device__ __forceinline__ void register_mainloop(int slices, Fetch&& fetch, Put&& put,
                                                  Multiply&& multiply) {
  fetch(0, 0);
  for (int slice = 0; slice < slices; ++slice) {
    // Publish the fetched slice.
    put(slice % 2, slice);
    __syncthreads();
    // Fetch the next one.
    if (slice + 1 < slices) fetch((slice + 1) % 2, slice + 1);
    // Multiply. A barrier follows before this stage is filled again.
    multiply(slice % 2, slice);
  }
  // Release the last stage.
  __syncthreads();
}

}  // namespace rnc
