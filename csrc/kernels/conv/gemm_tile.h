// The GEMM behind a convolution pass, and a tile of it.
#pragma once

#include <cstdint>

#include "common/fast_divmod.h"
#include "ptx/keywords.h"

namespace rnc {

// The GEMM of one group, D[rows, columns] = A[rows, depth] B[columns, depth]^T, in `splits` parts
// of the depth.
struct GemmShape {
  int32_t rows, columns, depth;
  int32_t groups, splits;
  int32_t depth_per_split;
  // What a group adds to the output's row and column.
  int32_t group_rows, group_columns;
  FastDivmod column_tiles;
  int32_t first_tile_row;  // index of its first 64 rows among those of all GEMMs of the launch
  bool diagonal;   // only runs of 16 channels and the same 16 filters of a super-group count
  bool symmetric;  // D is: tiles below its diagonal are left out
};

// Row m of the GEMM is row m of the output.
struct DenseRows {
  RNC_HOST_DEVICE int64_t row(int64_t m) const { return m; }
};

// Row m = (n, i, j) is pixel (n, residue_h + stride_h i, residue_w + stride_w j) of images of H x
// W.
struct StridedRows {
  int32_t H, W;
  int32_t stride_h, stride_w;
  int32_t residue_h, residue_w;
  FastDivmod by_positions_w, by_positions_h;

  RNC_HOST_DEVICE int64_t row(int64_t m) const {
    int32_t i, j;
    const int32_t n = by_positions_h.divide(by_positions_w.divide(int32_t(m), j), i);
    return (int64_t(n) * H + residue_h + i * stride_h) * W + residue_w + j * stride_w;
  }
};

// Where a tile starts in the GEMM of one group, and the part of the reduction it covers.
struct GemmTile {
  int32_t first_row, rows;        // rows: of the whole GEMM
  int32_t first_column, columns;  // columns: of the whole GEMM
  int32_t depth_begin, depth_end;
  int32_t group, split;
  bool diagonal;
};

// The tile with this index among those of a group and part of the reduction; false: there is none.
// Neighbours share the rows of A, which is the larger operand, so that it is read from memory once
// and B stays in the cache.
template <int kTileRows, int kTileColumns>
__device__ __forceinline__ bool find_tile(const GemmShape& shape, int32_t index,
                                          int32_t group_and_split, GemmTile& at) {
  int32_t column_tile;
  const int32_t row_tile = shape.column_tiles.divide(index, column_tile);
  at.first_row = row_tile * kTileRows;
  at.rows = shape.rows;
  at.first_column = column_tile * kTileColumns;
  at.columns = shape.columns;
  at.group = group_and_split % shape.groups;
  at.split = group_and_split / shape.groups;
  at.depth_begin = at.split * shape.depth_per_split;
  at.depth_end = min(at.depth_begin + shape.depth_per_split, shape.depth);
  at.diagonal = shape.diagonal;
  // The largest GEMM of a launch decides about the tiles; of a symmetric one a mirror image is
  // computed.
  return at.first_row < at.rows && !(shape.symmetric && at.first_column < at.first_row);
}

// Calls fn(column, accumulator) for the accumulators that a thread has of the GEMM's columns.
template <class BlockTile, class Fn>
__device__ __forceinline__ void for_each_accumulator(BlockTile& tile, const GemmTile& at, Fn&& fn) {
  tile.for_each([&](int column, auto& accumulator) {
    if (at.first_column + column < at.columns) fn(at.first_column + column, accumulator);
  });
}

}  // namespace rnc
