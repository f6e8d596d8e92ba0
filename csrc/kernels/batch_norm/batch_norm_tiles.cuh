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
      : first_row(int64_t(blockIdx.x) * StatsPieces::kRows),
        first_channel(int32_t(blockIdx.y) * StatsPieces::kColumns),
        rows(int(min(all_rows - first_row, int64_t(StatsPieces::kRows)))),
        columns(min(C - first_channel, int32_t(StatsPieces::kColumns))) {}

  // partials [row tiles][2][C] -> this tile's first channel of the first of the two.
  template <class Acc>
  __device__ __forceinline__ Acc* slot(Acc* partials, int32_t C) const {
    return partials + int64_t(blockIdx.x) * 2 * C + first_channel;
  }
};

// The calling thread's pieces of a tile of a [rows, C] matrix, all loaded before the first is used;
// zero outside.
template <class T>
struct LoadedPieces {
  using Acc = AccOf<T>;
  ElementGroup<T> pieces[StatsPieces::kPerThread];
  int count;

  __device__ __forceinline__ LoadedPieces(const T* matrix, int32_t C, const StatsTilePosition& at,
                                          bool aligned)
      : count(StatsPieces::count(at.columns)) {
    const T* first = matrix + at.first_row * C + at.first_channel + StatsPieces::column();
    StatsPieces::for_each(
        at.rows, [&](int i, int row) { pieces[i].load(first, int64_t(row) * C, count, aligned); });
  }

  __device__ __forceinline__ void get(int i, Acc (&piece)[kGroupElements]) const {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) piece[e] = e < count ? pieces[i].widened(e) : Acc(0);
  }
};

template <class T>
struct BnStatisticsKernelParams {
  int64_t rows;
  int32_t C;
  const T* y;
  AccOf<T>* partials;
  bool aligned;
};

template <class T>
__global__ void __launch_bounds__(StatsPieces::kThreads)
    bn_statistics_kernel(const __grid_constant__ BnStatisticsKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc, StatsPieces>>();
  const StatsTilePosition at(params.rows, params.C);

  // Load the tile.
  const LoadedPieces<T> tile(params.y, params.C, at, params.aligned);

  // Reduce it.
  ColumnMoments<Acc> moments;
  StatsPieces::for_each(at.rows, [&](int i, int) {
    Acc piece[kGroupElements];
    tile.get(i, piece);
    moments.add(i, piece);
  });
  shared.store(moments, at.rows, at.columns, at.slot(params.partials, params.C), params.C);
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
  bool aligned;
};

// Two blocks: ptxas would rather spill than have three instead of four.
template <class T>
__global__ void __launch_bounds__(StatsPieces::kThreads, 2)
    bn_backward_reduce_kernel(const __grid_constant__ BnBackwardReduceKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<ColumnSums<Acc, StatsPieces>>();
  const StatsTilePosition at(params.rows, params.C);
  const ReluGateView<T> gate(params.gate);

  // Load the gradient and the output.
  const LoadedPieces<T> dz(params.dz, params.C, at, params.aligned);
  const LoadedPieces<T> y(params.y, params.C, at, params.aligned);

  // Sum the gated gradient and its product with the centred output.
  const int32_t channel = at.first_channel + StatsPieces::column();
  const ColumnVector<Acc> mean(params.mean, channel, dz.count, Acc(0));
  Acc gradient[kGroupElements] = {}, moment[kGroupElements] = {};
  StatsPieces::for_each(at.rows, [&](int i, int row) {
    const int64_t offset = (at.first_row + row) * params.C + channel;
    Acc dz_piece[kGroupElements], y_piece[kGroupElements];
    dz.get(i, dz_piece);
    y.get(i, y_piece);
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      if (e >= dz.count || !gate.passes(offset + e, channel + e, y_piece[e])) continue;
      gradient[e] += dz_piece[e];
      moment[e] += dz_piece[e] * (y_piece[e] - mean.v[e]);
    }
  });

  // Reduce both.
  shared.store(gradient, moment, at.columns, at.slot(params.partials, params.C), params.C);
}

}  // namespace rnc
