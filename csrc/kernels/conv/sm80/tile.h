// The tiles of the Ampere main loop: four warps, two along each side.
#pragma once

#include "common/dtype.h"
#include "ptx/mma_sync.cuh"

namespace rnc {

template <class T>
struct MmaOfTrait;
template <>
struct MmaOfTrait<bfloat16> {
  static constexpr ptx::Mma kMma = ptx::Mma::kM16N8K16Bfloat16;
};
template <>
struct MmaOfTrait<float16> {
  static constexpr ptx::Mma kMma = ptx::Mma::kM16N8K16Float16;
};

template <int kTileRows, int kTileColumns, int kBlocksTogether>
struct Sm80Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = kBlocksTogether;  // on a multiprocessor: what registers allow
  static constexpr int kSliceBytes = 64;           // of depth
  // As many as let two blocks share the 100 KB of a multiprocessor of sm_86 and sm_89.
  static constexpr int kStages = 48 * 1024 / ((kRows + kColumns) * kSliceBytes);
};

// 128 accumulators per thread: the fewest shared-memory reads per product.
using Sm80LargeTile = Sm80Tile<128, 128, 2>;
// For 64 columns, and where large tiles would leave multiprocessors idle.
using Sm80NarrowTile = Sm80Tile<128, 64, 3>;

}  // namespace rnc
