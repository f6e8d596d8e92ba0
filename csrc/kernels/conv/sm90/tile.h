// The tiles of the Hopper main loops: two to four warpgroups that multiply, 64 rows each, and a
// warp whose elected thread feeds them by TMA. The warpgroups lie one below the other, or side by
// side.
#pragma once

#include "kernels/conv/sm90/halo_square.h"
#include "tile/wgmma_accumulators.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

// kTileBlocks share a multiprocessor: where they are two, one's epilogue overlaps with the other's
// products. The producing warp has three idle neighbours, so that the whole warpgroup can hand most
// of its registers to those that multiply: each quarter of a multiprocessor has 512 per lane.
//
// Two blocks may form a cluster: their tiles lie one below the other, and each loads half of the
// filters for both.
template <int kTileRows, int kTileColumns, int kTileBlocks, int kTileClusterBlocks = 1,
          int kTileWarpgroups = 2>
struct Sm90Tile {
  static constexpr int kWarpgroups = kTileWarpgroups;
  static constexpr int kRows = kTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kWarpgroupsDown = kRows / Warpgroup::kRows;
  static constexpr int kWarpgroupColumns = kColumns / (kWarpgroups / kWarpgroupsDown);
  static constexpr int kBlocks = kTileBlocks;
  static constexpr int kClusterBlocks = kTileClusterBlocks;
  static constexpr int kConsumers = kWarpgroups * Warpgroup::kThreads;
  static constexpr int kThreads = kConsumers + Warpgroup::kThreads;
  static constexpr int kProducerRegisters = kBlocks == 2 ? 40 : kWarpgroups == 4 ? 32 : 48;
  static constexpr int kConsumerRegisters = kBlocks == 2       ? 96
                                            : kWarpgroups == 4 ? 112
                                            : kWarpgroups == 3 ? 152
                                                               : 232;
  // Pieces for which an epilogue's thread loads something at once, as far as registers allow.
  static constexpr int kAhead = kWarpgroups == 4 ? 1 : 2;
  // Columns that a warpgroup hands to the epilogue at a time: 128 bytes of each row.
  static constexpr int kStagedColumns = 64;
  // Shared memory for the ring of operand slices; a warpgroup's epilogue takes 27 KB beside it.
  static constexpr int kRingBytes = 1024 * (kBlocks == 2       ? 64
                                            : kWarpgroups == 4 ? 112
                                            : kWarpgroups == 3 ? 132
                                                               : 168);
};

using Sm90LargeTile = Sm90Tile<128, 128, 1, 2>;
// Two thirds of the bytes of operands per product, and 128 accumulators per thread.
using Sm90WideTile = Sm90Tile<128, 256, 1, 2>;
// For at most 64 columns. Two blocks have room, as twins, where operands are multiplied as they are
// and the epilogue keeps little: fprop's, and dgrad's without sums.
using Sm90NarrowTile = Sm90Tile<128, 64, 1>;
using Sm90NarrowTwinTile = Sm90Tile<128, 64, 2>;
// As large as the large tile, without a cluster: for products over pixels, of which blocks share no
// operand.
using Sm90SingleTile = Sm90Tile<128, 128, 1>;
// For 3x3 windows of at most 64 channels, whose filters stay beside the ring.
template <bool kHasCompanion>
using Sm90HaloTile = Sm90Tile<HaloSquare::tile_rows(kHasCompanion), HaloSquare::kChannels, 1, 1,
                              HaloSquare::of_tile(kHasCompanion)>;
// For gradients of at most 64 filters.
using Sm90FlatTile = Sm90Tile<64, 256, 1>;

}  // namespace rnc
