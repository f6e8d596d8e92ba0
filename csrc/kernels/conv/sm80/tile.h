// The tiles of the Ampere main loop: four warps.
#pragma once

#include "common/dtype.h"
#include "tile/mma_tile.cuh"
#include "tile/packed_groups_tile.cuh"

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
template <>
struct MmaOfTrait<float> {
  static constexpr ptx::Mma kMma = ptx::Mma::kM16N8K8TensorFloat32;
};
// Whether the main loop multiplies such operands.
template <class T>
inline constexpr bool kHasMma = requires { MmaOfTrait<T>::kMma; };

// Two warps along each side.
template <int kTileRows, int kTileColumns>
struct Sm80Tile {
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kWarpsDown = 2;
  static constexpr bool kPacksGroups = false;
  template <class T>
  using WarpTile = MmaWarpTile<MmaOfTrait<T>::kMma, kRows / 2, kColumns / 2>;
  static constexpr int kThreads = 128;
  static constexpr int kBlocks = 2;       // on a multiprocessor: registers must leave room
  static constexpr int kSliceBytes = 64;  // of depth
  // The ring may be so large that two blocks share the 100 KB of a multiprocessor of sm_86 and
  // sm_89.
  static constexpr int kSharedBytes = 48 * 1024;
};

// 128 accumulators per thread: the fewest shared-memory reads per product.
using Sm80LargeTile = Sm80Tile<128, 128>;
// For 64 columns, and where large tiles would leave multiprocessors idle.
using Sm80NarrowTile = Sm80Tile<128, 64>;
// For matrices of at most 64 rows and columns.
using Sm80SmallTile = Sm80Tile<64, 64>;

// A super-group of packed groups (packed_filters.cuh): the warps lie side by side along the pixels
// of fprop and dgrad, along the taps of wgrad.
template <int kTileRows, int kTileColumns, PackedAlong kAlong>
struct Sm80PackedTile : Sm80Tile<kTileRows, kTileColumns> {
  static constexpr int kWarpsDown = kTileRows / kPackedChannels;
  static constexpr bool kPacksGroups = true;
  template <class T>
  using WarpTile = PackedGroupsTile<MmaOfTrait<T>::kMma, kAlong>;
};
using Sm80PackedPixelsTile = Sm80PackedTile<128, kPackedChannels, PackedAlong::kDepth>;
using Sm80PackedFiltersTile = Sm80PackedTile<kPackedChannels, 128, PackedAlong::kRows>;

}  // namespace rnc
