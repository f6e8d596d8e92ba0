// A place in a ring of shared-memory stages.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc {

// The stage, and the parity of this lap: an mbarrier of the stage completes one phase per lap.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    ++stage;
    if (stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // Passes over so many.
  __device__ __forceinline__ void advance(int stages) {
    for (stage += stages; stage >= kStages; stage -= kStages) parity ^= 1;
  }
};

}  // namespace rnc
