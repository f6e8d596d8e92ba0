// Batch norm's passes that reduce over rows: statistics of y, and the two sums of the backward.
// Both read 64 x 64 tiles and write one partial result per row tile and channel, exactly as the
// convolution epilogues do.
#pragma once

#include "kernels/batch_norm/relu_gate.cuh"
#include "tile/column_sums.cuh"

namespace rnc {

// The tile of y [rows, C] that a block reads; grid: (row tiles, channel tiles).
struct StatsTilePosition {
  int64_t first_row;
  int32_t first_channel;
  int rows, columns;  // valid ones

  __device__ __forceinline__ StatsTilePosition(int64_t all_rows, int32_t C)
      : first_row(int64_t(blockIdx.x) * SimtTile::kRows),
        first_channel(int32_t(blockIdx.y) * SimtTile::kColumns),
        rows(int(min(all_rows - first_row, int64_t(SimtTile::kRows)))),
        columns(min(C - first_channel, int32_t(SimtTile::kColumns))) {}

  // partials [row tiles][2][C] -> this tile's first channel of the first of the two.
  template <class Acc>
  __device__ __forceinline__ Acc* slot(Acc* partials, int32_t C) const {
    return partials + int64_t(blockIdx.x) * 2 * C + first_channel;
  }
};

template <class T>
struct BnStatisticsKernelParams {
  int64_t rows;
  int32_t C;
  const T* y;
  AccOf<T>* partials;
};

template <class T>
__global__ void __launch_bounds__(SimtTile::kThreads)
    bn_statistics_kernel(const __grid_constant__ BnStatisticsKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc>>();
  const StatsTilePosition at(params.rows, params.C);

  // Load the tile.
  ThreadTile<Acc> tile;
  tile.clear();
  for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
    tile.v[i][j] = Acc(widen(ptx::load_global_nc(params.y + (at.first_row + row) * params.C +
                                                 at.first_channel + column)));
  });

  // Reduce it.
  Acc* mean = at.slot(params.partials, params.C);
  store_column_statistics(tile, at.rows, at.columns, mean, mean + params.C, shared);
}

template <class T>
struct BnBackwardReduceKernelParams {
  int64_t rows;
  int32_t C;
  const T* dz;
  const T* y;
  const AccOf<T>* mean;
  ReluGate gate;
  AccOf<T>* partials;
};

template <class T>
__global__ void __launch_bounds__(SimtTile::kThreads)
    bn_backward_reduce_kernel(const __grid_constant__ BnBackwardReduceKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc>>();
  const StatsTilePosition at(params.rows, params.C);
  const ReluGateView<T> gate(params.gate);

  // Load the gated gradient and its product with the centred output.
  ThreadTile<Acc> gradient, moment;
  gradient.clear();
  moment.clear();
  for_each_element(at.rows, at.columns, [&](int i, int j, int row, int column) {
    const int32_t channel = at.first_channel + column;
    const int64_t offset = (at.first_row + row) * params.C + channel;
    const Acc y = Acc(widen(ptx::load_global_nc(params.y + offset)));
    const Acc dz = Acc(widen(ptx::load_global_nc(params.dz + offset)));
    gradient.v[i][j] = gate.passes(offset, channel, y) ? dz : Acc(0);
    moment.v[i][j] = gradient.v[i][j] * (y - ptx::load_global_nc(params.mean + channel));
  });

  // Reduce both.
  Acc* sums = at.slot(params.partials, params.C);
  store_column_sums(gradient, at.columns, sums, shared);
  store_column_sums(moment, at.columns, sums + params.C, shared);
}

}  // namespace rnc
