// The GEMM behind a convolution pass, and a tile of it.
#pragma once

#include <cstdint>

#include "common/fast_divmod.h"

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
};

// Where a tile starts in the GEMM of one group, and the part of the reduction it covers.
struct GemmTile {
  int32_t first_row, rows;        // rows: of the whole GEMM
  int32_t first_column, columns;  // columns: of the whole GEMM
  int32_t depth_begin, depth_end;
  int32_t group, split;
};

}  // namespace rnc
