// The accumulators of a block of four warps: what the Ampere main loops have in common.
#pragma once

#include <type_traits>

#include "kernels/conv/sm80/tile.h"
#include "tile/row_pieces.cuh"

namespace rnc {

template <class Tile, class T>
struct Sm80BlockTile {
  using Acc = AccOf<T>;
  static constexpr int kThreads = Tile::kThreads;
  static constexpr int kBlocks = Tile::kBlocks;
  static constexpr int kRows = Tile::kRows;
  static constexpr int kColumns = Tile::kColumns;
  static constexpr bool kPacksGroups = Tile::kPacksGroups;
  static constexpr int kSliceDepth = Tile::kSliceBytes / int(sizeof(T));
  // A warp stages 8 rows of 8 neighbouring columns at a time.
  using Rows = StagedRows<Acc, kColumns, 8>;

  typename Tile::template WarpTile<T> tile;

  // Adds the products of a slice of each operand; diagonal: as GemmTile has it.
  template <class SliceA, class SliceB>
  __device__ __forceinline__ void multiply(const SliceA& a, const SliceB& b,
                                           bool diagonal = false) {
    if constexpr (kPacksGroups) {
      tile.multiply(a, warp_row(), b, warp_column(), diagonal);
    } else {
      tile.multiply(a, warp_row(), b, warp_column());
    }
  }

  // Calls fn(column, accumulator) for the thread's elements.
  template <class Fn>
  __device__ __forceinline__ void for_each(Fn&& fn) {
    tile.for_each([&](int column, Acc& v) { fn(warp_column() + column, v); });
  }

  // Calls fn(column, for_each_row), and for_each_row(then) calls then(row, left, right), for the
  // thread's elements in that column and the next.
  template <class Fn>
  __device__ __forceinline__ void for_each_column_pair(Fn&& fn) const {
    tile.for_each_column_pair([&](int column, auto&& for_each_row) {
      fn(warp_column() + column, [&](auto&& then) {
        for_each_row([&](int row, Acc left, Acc right) { then(warp_row() + row, left, right); });
      });
    });
  }

  __device__ __forceinline__ void clear() { tile.clear(); }

  __device__ __forceinline__ void add(const Sm80BlockTile& other) { tile.add(other.tile); }

  // Puts rows kStatsTileRows * part .. of the tile into shared memory.
  __device__ __forceinline__ void stage(int part, Rows& rows) const {
    const int first = warp_row() - part * kStatsTileRows;
    if (first < 0 || first >= kStatsTileRows) return;
    tile.for_each_pair([&](int row, int column, Acc left, Acc right) {
      rows.template put<2>(first + row, warp_column() + column, {{left, right}});
    });
  }

  static __device__ __forceinline__ int warp_row() {
    return int(threadIdx.x) / 32 % Tile::kWarpsDown * (kRows / Tile::kWarpsDown);
  }
  static __device__ __forceinline__ int warp_column() {
    constexpr int kWarpsAcross = kThreads / 32 / Tile::kWarpsDown;
    return int(threadIdx.x) / 32 / Tile::kWarpsDown * (kColumns / kWarpsAcross);
  }
};

// A slice of an operand as it is stored: along the depth where that is contiguous.
template <class Operand, int kSliceRows>
using SliceOf = std::conditional_t<Operand::kDepthIsContiguous, OperandSlice<kSliceRows>,
                                   TransposedSlice<kSliceRows, sizeof(typename Operand::Element)>>;

}  // namespace rnc
