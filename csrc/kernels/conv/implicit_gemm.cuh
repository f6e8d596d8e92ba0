// One kernel for every convolution pass on every generation of hardware: the main loop multiplies,
// its operands say where elements come from, the epilogue says where results go.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/fusion/epilogue.cuh"

namespace rnc {

// One GEMM: its shape, its operands, and which rows of the output its rows are.
template <class Mainloop, class RowPlaces>
struct ImplicitGemm {
  GemmShape shape;
  typename Mainloop::Params operands;
  RowPlaces places;
};

// A launch computes up to kGemms GEMMs that have rows of one output.
template <class Mainloop, class RowPlaces, int kGemms, class EpilogueType>
struct ImplicitGemmParams {
  using Epilogue = EpilogueType;
  ImplicitGemm<Mainloop, RowPlaces> gemms[kGemms];
  Epilogue epilogue;
};

template <class Mainloop>
using EpiloguePieces = RowPieces<Mainloop::kColumns, BlockThreads<Mainloop::kThreads>>;

// The epilogue takes over when nobody reads the operands any more.
template <class Mainloop, class Epilogue>
union ImplicitGemmStorage {
  typename Mainloop::Storage mainloop;
  struct {
    typename Mainloop::Rows rows;
    typename Epilogue::template SharedStorage<EpiloguePieces<Mainloop>> epilogue;
  } output;
};

// grid: (row tiles * column tiles, groups * splits, GEMMs).
template <class Mainloop, class RowPlaces, int kGemms, class Epilogue>
__global__ void __launch_bounds__(Mainloop::kThreads, Mainloop::kBlocks) implicit_gemm_kernel(
    const __grid_constant__ ImplicitGemmParams<Mainloop, RowPlaces, kGemms, Epilogue> params) {
  auto& shared = dynamic_smem<ImplicitGemmStorage<Mainloop, Epilogue>>();
  const auto& gemm = params.gemms[kGemms == 1 ? 0 : blockIdx.z];
  const GemmShape& shape = gemm.shape;

  // Find this block's tile.
  GemmTile at;
  if (!find_tile<Mainloop::kRows, Mainloop::kColumns>(shape, int32_t(blockIdx.x),
                                                      int32_t(blockIdx.y), at)) {
    return;
  }

  // Multiply.
  Mainloop tile;
  tile.run(gemm.operands, at, shared.mainloop);

  // Hand the tile to the epilogue, as many rows at a time as statistics are taken of.
  TileCoord coord;
  coord.channel = at.group * shape.group_columns + at.first_column;
  coord.columns = min(shape.columns - at.first_column, int32_t(Mainloop::kColumns));
  coord.split = at.split;
  constexpr int kParts = (Mainloop::kRows + kStatsTileRows - 1) / kStatsTileRows;
  [[maybe_unused]] constexpr int kUnrolled =
      Mainloop::kBlocks > 1 ? kParts : 1;  // where registers allow
  RNC_UNROLL_BY(kUnrolled)
  for (int part = 0; part < kParts; ++part) {
    const int32_t first_row = at.first_row + part * kStatsTileRows;
    if (first_row >= shape.rows) break;
    if (part > 0) __syncthreads();
    tile.stage(part, shared.output.rows);
    __syncthreads();
    coord.row = int64_t(at.group) * shape.group_rows + first_row;
    coord.rows = min(shape.rows - first_row, kStatsTileRows);
    coord.tile_row = shape.first_tile_row + first_row / kStatsTileRows;
    params.epilogue.template run<EpiloguePieces<Mainloop>>(coord, gemm.places, shared.output.rows,
                                                           shared.output.epilogue);
  }
}

}  // namespace rnc
