// The accumulators of a block of two warpgroups: what the Hopper main loops have in common.
#pragma once

#include "kernels/conv/sm90/tile.h"
#include "tile/warpgroup_rows.cuh"

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
  using Rows = WarpgroupRows;
  static_assert(kWarpgroupColumns % kStagedColumns == 0 && kStagedColumns == Rows::kColumns);

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

  // Puts kStagedColumns columns of the warpgroup's tile into shared memory, one part after the
  // other. Registers have no index at run time: of few accumulators each part has code of its own.
  // Of many the others move up, so that those which are there already occupy no registers.
  template <class Rows>
  __device__ __forceinline__ void stage(int part, Rows& rows) {
    constexpr int kStaged = kStagedColumns / 2;
    constexpr bool kMoves = kAccumulators > 2 * kStaged && !Rows::kAreRounded;
    RNC_UNROLL
    for (int first = 0; first < (kMoves ? kStaged : kAccumulators); first += kStaged) {
      if (!kMoves && first / kStaged != part) continue;
      rows.put_warpgroup(reinterpret_cast<const Acc(&)[kStaged]>(accumulators[first]));
    }
    RNC_UNROLL
    for (int i = kStaged; kMoves && i < kAccumulators; ++i) {
      accumulators[i - kStaged] = accumulators[i];
    }
  }
};

}  // namespace rnc
