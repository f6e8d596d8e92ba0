// The tile of the SIMT main loop: 256 threads hold 64 x 64 accumulators as 4 x 4 elements each.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc {

struct SimtTile {
  static constexpr int kThreads = 256;
  static constexpr int kThreadsPerSide = 16;
  static constexpr int kPerThread = 4;
  static constexpr int kRows = kThreadsPerSide * kPerThread;
  static constexpr int kColumns = kRows;
  static constexpr int kDepth = 16;
};
static_assert(SimtTile::kThreadsPerSide * SimtTile::kThreadsPerSide == SimtTile::kThreads);

// The elements one thread holds: element [i][j] is row `row(i)`, column `column(j)` of the tile.
// Neighbouring lanes hold neighbouring columns, so a warp's access covers whole sectors.
template <class Acc>
struct ThreadTile {
  Acc v[SimtTile::kPerThread][SimtTile::kPerThread];

  static __device__ __forceinline__ int row(int i) {
    return int(threadIdx.x) / SimtTile::kThreadsPerSide + i * SimtTile::kThreadsPerSide;
  }
  static __device__ __forceinline__ int column(int j) {
    return int(threadIdx.x) % SimtTile::kThreadsPerSide + j * SimtTile::kThreadsPerSide;
  }

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (int i = 0; i < SimtTile::kPerThread; ++i) RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) v[i][j] = Acc(0);
  }
};

}  // namespace rnc
