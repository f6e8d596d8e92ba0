// What the Hopper kernels have in common: the way of a finished tile back to global memory.
#pragma once

#include "ptx/memory.cuh"
#include "ptx/named_barrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"
#include "tile/wgmma_accumulators.cuh"
#include "tile/wgmma_mainloop.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc::reference {

// Rounds a warpgroup's 64 x N tile to T and stores it by TMA; the map clips what lies outside the
// matrix. `barrier` is a named barrier of the warpgroup's own.
template <class T, int kAccumulators>
__device__ __forceinline__ void store_by_tma(const float (&accumulators)[kAccumulators],
                                             TilePanel* panels, const ptx::TensorMap* map,
                                             int32_t first_row, int32_t first_column,
                                             uint32_t barrier) {
  constexpr int kPanels = kAccumulators * 2 / TilePanel::kColumns;
  // Round the tile into shared memory, where TMA may read it.
  store_to_panels<T>(accumulators, panels);
  ptx::fence_proxy_async();
  ptx::barrier_sync(barrier, Warpgroup::kThreads);
  // Store it panel by panel; the block must not exit before its shared memory has been read.
  const bool first_warp = threadIdx.x / 32 % Warpgroup::kWarps == 0;
  if (first_warp && ptx::elect_one()) {
    RNC_UNROLL
    for (int panel = 0; panel < kPanels; ++panel) {
      ptx::tma_store(map, panels[panel].bytes,
                     {first_column + panel * TilePanel::kColumns, first_row});
    }
    ptx::tma_store_commit();
    ptx::tma_store_wait_read<0>();
  }
}

// Stores a warpgroup's 64 x N tile as floats, pair by pair, inside rows x columns; `columns` is
// even.
template <int kAccumulators>
__device__ __forceinline__ void store_floats(const float (&accumulators)[kAccumulators], float* d,
                                             int32_t rows, int32_t columns, int32_t first_row,
                                             int32_t first_column) {
  for_each_accumulator_pair(accumulators, [&](int row, int column, float first, float second) {
    row += first_row;
    column += first_column;
    if (row >= rows || column >= columns) return;
    auto* target = reinterpret_cast<Vec<float, 2>*>(d + int64_t(row) * columns + column);
    ptx::store_global(target, {{first, second}});
  });
}

}  // namespace rnc::reference
