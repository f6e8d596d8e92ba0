// One kernel for every convolution pass: operands say where elements come from, the epilogue says
// where results go.
#pragma once

#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/fusion/epilogue.cuh"
#include "kernels/fusion/prologue.cuh"

namespace rnc {

// The GEMM of one group, D[rows, columns] = A[rows, depth] B[columns, depth]^T, in `splits` parts
// of the depth.
struct GemmShape {
  int32_t rows, columns, depth;
  int32_t groups, splits;
  int32_t depth_per_split;
  // What a group adds to the output's row and column.
  int32_t group_rows, group_columns;
};

template <class OperandA, class OperandB, class Epilogue>
struct ImplicitGemmParams {
  GemmShape shape;
  OperandA a;
  OperandB b;
  Epilogue epilogue;
};

template <class Acc, class Epilogue>
union ImplicitGemmStorage {
  SimtMainloopStorage<Acc> mainloop;
  typename Epilogue::SharedStorage epilogue;
};

// grid: (row tiles, column tiles, groups * splits)
template <class OperandA, class OperandB, class Epilogue>
__global__ void __launch_bounds__(SimtTile::kThreads) implicit_gemm_kernel(
    const __grid_constant__ ImplicitGemmParams<OperandA, OperandB, Epilogue> params) {
  using Acc = typename OperandA::Acc;
  auto& shared = dynamic_smem<ImplicitGemmStorage<Acc, Epilogue>>();
  const GemmShape& shape = params.shape;

  // Find this block's tile.
  GemmTile at;
  at.first_row = int32_t(blockIdx.x) * SimtTile::kRows;
  at.rows = shape.rows;
  at.first_column = int32_t(blockIdx.y) * SimtTile::kColumns;
  at.columns = shape.columns;
  at.group = int32_t(blockIdx.z) % shape.groups;
  const int32_t split = int32_t(blockIdx.z) / shape.groups;
  at.depth_begin = split * shape.depth_per_split;
  at.depth_end = min(at.depth_begin + shape.depth_per_split, shape.depth);

  // Multiply.
  ThreadTile<Acc> tile;
  tile.clear();
  simt_mainloop(params.a, params.b, at, tile, shared.mainloop);

  // Hand the tile to the epilogue.
  TileCoord coord;
  coord.row = int64_t(at.group) * shape.group_rows + at.first_row;
  coord.rows = min(shape.rows - at.first_row, int32_t(SimtTile::kRows));
  coord.channel = at.group * shape.group_columns + at.first_column;
  coord.columns = min(shape.columns - at.first_column, int32_t(SimtTile::kColumns));
  coord.tile_row = int32_t(blockIdx.x);
  coord.split = split;
  params.epilogue.run(coord, tile, shared.epilogue);
}

}  // namespace rnc
