// The accumulators of a block of two warpgroups: what the Hopper main loops have in common.
#pragma once

#include "kernels/conv/sm90/tile.h"
#include "tile/row_pieces.cuh"

namespace rnc {

template <class Tile>
struct Sm90BlockTile {
  using Acc = float;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kConsumers = Tile::kConsumers;
  static constexpr int kBlocks = Tile::kBlocks;
  using BlockShape = Tile;
  static constexpr int kRows = Tile::kRows;
  static constexpr int kColumns = Tile::kColumns;
  static constexpr bool kPacksGroups = false;
  static constexpr bool kIsWarpSpecialised = true;
  static constexpr int kWarpgroupColumns = Tile::kWarpgroupColumns;
  static constexpr int kAccumulators = kWarpgroupColumns / 2;
  static constexpr int kStagedColumns = Tile::kStagedColumns;
  // A warp stages 8 rows of 8 neighbouring columns at a time.
  using Rows = StagedRows<Acc, kStagedColumns, 8>;
  static_assert(kWarpgroupColumns % kStagedColumns == 0);

  Acc accumulators[kAccumulators];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (int i = 0; i < kAccumulators; ++i) accumulators[i] = Acc(0);
  }

  // The first row and the first column of the calling thread's warpgroup.
  static __device__ __forceinline__ int warpgroup_row() {
    return WarpgroupThreads::warpgroup() % Tile::kWarpgroupsDown * Warpgroup::kRows;
  }
  static __device__ __forceinline__ int warpgroup_column() {
    return WarpgroupThreads::warpgroup() / Tile::kWarpgroupsDown * kWarpgroupColumns;
  }

  // Calls fn(column, accumulator) for the thread's elements.
  template <class Fn>
  __device__ __forceinline__ void for_each(Fn&& fn) {
    const int column = warpgroup_column() + int(threadIdx.x) % 4 * 2;
    RNC_UNROLL
    for (int i = 0; i < kAccumulators; ++i) fn(column + i / 4 * 8 + i % 2, accumulators[i]);
  }

  __device__ __forceinline__ void add(const Sm90BlockTile& other) {
    RNC_UNROLL
    for (int i = 0; i < kAccumulators; ++i) accumulators[i] += other.accumulators[i];
  }

  // Puts the next kStagedColumns columns of the warpgroup's tile into shared memory, which are the
  // first ones no more: registers have no index at run time, so the others move up.
  __device__ __forceinline__ void stage_next(Rows& rows) {
    constexpr int kStaged = kStagedColumns / 2;
    Acc staged[kStaged];
    RNC_UNROLL
    for (int i = 0; i < kStaged; ++i) staged[i] = accumulators[i];
    for_each_accumulator_pair(staged, [&](int row, int column, Acc left, Acc right) {
      rows.template put<2>(row, column, {{left, right}});
    });
    RNC_UNROLL
    for (int i = kStaged; i < kAccumulators; ++i) accumulators[i - kStaged] = accumulators[i];
  }
};

}  // namespace rnc
