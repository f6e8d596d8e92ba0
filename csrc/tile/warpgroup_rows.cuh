// 64 rows of 64 columns in shared memory, as a warpgroup puts them there from its accumulators and
// as epilogues read them, piece by piece.
#pragma once

#include "tile/row_pieces.cuh"
#include "tile/wgmma_accumulators.cuh"

namespace rnc {

// Accumulators as they are. A warp puts 8 rows of 8 neighbouring columns there at a time.
struct WarpgroupRows : StagedRows<float, TilePanel::kColumns, 8> {
  __device__ __forceinline__ void put_warpgroup(const float (&accumulators)[kColumns / 2]) {
    for_each_accumulator_pair(accumulators, [&](int row, int column, float left, float right) {
      put<2>(row, column, {{left, right}});
    });
  }
};

// Rounded to T, as a panel that TMA stores.
template <class T>
struct RoundedWarpgroupRows {
  static constexpr int kColumns = TilePanel::kColumns;
  static constexpr bool kAreRounded = true;
  TilePanel panel;

  __device__ __forceinline__ void put_warpgroup(const float (&accumulators)[kColumns / 2]) {
    store_to_panels<T>(accumulators, &panel);
  }

  __device__ __forceinline__ void get(int row, int column, float (&piece)[kGroupElements]) const {
    using Piece = Vec<T, kGroupElements>;
    const uint32_t offset = uint32_t(row * kSliceBytes + column * int(sizeof(T)));
    const Piece rounded = ptx::load_shared(
        reinterpret_cast<const Piece*>(panel.bytes + swizzle_offset(offset, Swizzle::k128)));
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) piece[e] = widen(rounded.v[e]);
  }
};

}  // namespace rnc
