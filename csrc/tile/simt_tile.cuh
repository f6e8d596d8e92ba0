// The SIMT tile every first-generation kernel shares: 256 threads hold a 64 x 64 tile as 4 x 4
// elements each.
#pragma once

#include <cstdint>

#include "kernels/batch_norm/batch_norm_params.h"
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
static_assert(SimtTile::kRows == kStatsTileRows, "a statistics tile is one GEMM row tile");

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

// Calls fn(i, j, row, column) for the thread's elements that lie inside rows x columns.
template <class Fn>
__device__ __forceinline__ void for_each_element(int rows, int columns, Fn&& fn) {
  RNC_UNROLL
  for (int i = 0; i < SimtTile::kPerThread; ++i) {
    const int row = ThreadTile<float>::row(i);
    RNC_UNROLL
    for (int j = 0; j < SimtTile::kPerThread; ++j) {
      const int column = ThreadTile<float>::column(j);
      if (row < rows && column < columns) fn(i, j, row, column);
    }
  }
}

}  // namespace rnc
