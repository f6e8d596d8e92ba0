// Batch norm's passes that reduce over rows: statistics of y, and the two sums of the backward.
// Both read 64 x 64 tiles and write one partial result per row tile and channel, exactly as the
// convolution epilogues do.
#pragma once

#include "kernels/batch_norm/relu_gate.cuh"
#include "tile/column_sums.cuh"

namespace rnc {

template <class T>
struct BnStatisticsKernelParams {
  int64_t rows;
  int32_t C;
  const T* y;
  AccOf<T>* partials;
};

// grid: (row tiles, channel tiles)
template <class T>
__global__ void __launch_bounds__(SimtTile::kThreads)
    bn_statistics_kernel(const __grid_constant__ BnStatisticsKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc>>();
  const int64_t first_row = int64_t(blockIdx.x) * SimtTile::kRows;
  const int32_t first_channel = int32_t(blockIdx.y) * SimtTile::kColumns;
  const int rows = int(min(params.rows - first_row, int64_t(SimtTile::kRows)));
  const int columns = min(params.C - first_channel, int32_t(SimtTile::kColumns));

  // Load the tile.
  ThreadTile<Acc> tile;
  tile.clear();
  for_each_element(rows, columns, [&](int i, int j, int row, int column) {
    tile.v[i][j] = Acc(widen(
        ptx::load_global_nc(params.y + (first_row + row) * params.C + first_channel + column)));
  });

  // Reduce it.
  Acc* mean = params.partials + int64_t(blockIdx.x) * 2 * params.C + first_channel;
  store_column_statistics(tile, rows, columns, mean, mean + params.C, shared);
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

// grid: (row tiles, channel tiles)
template <class T>
__global__ void __launch_bounds__(SimtTile::kThreads)
    bn_backward_reduce_kernel(const __grid_constant__ BnBackwardReduceKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc>>();
  const int64_t first_row = int64_t(blockIdx.x) * SimtTile::kRows;
  const int32_t first_channel = int32_t(blockIdx.y) * SimtTile::kColumns;
  const int rows = int(min(params.rows - first_row, int64_t(SimtTile::kRows)));
  const int columns = min(params.C - first_channel, int32_t(SimtTile::kColumns));
  const ReluGateView<T> gate(params.gate);

  // Load the gated gradient and its product with the centred output.
  ThreadTile<Acc> gradient, moment;
  gradient.clear();
  moment.clear();
  for_each_element(rows, columns, [&](int i, int j, int row, int column) {
    const int32_t channel = first_channel + column;
    const int64_t offset = (first_row + row) * params.C + channel;
    const Acc y = Acc(widen(ptx::load_global_nc(params.y + offset)));
    const Acc dz = Acc(widen(ptx::load_global_nc(params.dz + offset)));
    gradient.v[i][j] = gate.passes(offset, channel, y) ? dz : Acc(0);
    moment.v[i][j] = gradient.v[i][j] * (y - ptx::load_global_nc(params.mean + channel));
  });

  // Reduce both.
  Acc* sums = params.partials + int64_t(blockIdx.x) * 2 * params.C + first_channel;
  store_column_sums(gradient, columns, sums, shared);
  store_column_sums(moment, columns, sums + params.C, shared);
}

}  // namespace rnc
