// The bottleneck's expand with its projection shortcut: two GEMMs over the same output tile in one
// launch, so that neither convolution's output is ever stored.
#pragma once

#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/fusion/activation.cuh"
#include "kernels/fusion/epilogue.cuh"
#include "kernels/fusion/prologue.cuh"
#include "tile/im2col.cuh"

namespace rnc {

template <class T>
struct ExpandProjectKernelParams {
  int32_t rows, K;
  PixelRows<T, Identity<T>> x;         // [rows, C]
  FilterRows<T> weight;                // [K, C]
  PixelRows<T, Identity<T>> residual;  // [rows, residual_C], sampled
  FilterRows<T> projection_weight;     // [K, residual_C]
  int32_t C, residual_C;
  const AccOf<T>* scale;
  const AccOf<T>* bias;
  const AccOf<T>* projection_scale;
  const AccOf<T>* projection_bias;
  T* z;
  bool relu;
};

// z = relu?(scale (x W^T) + bias + projection_scale (residual Wp^T) + projection_bias); grid: (row
// tiles, column tiles)
template <class T>
__global__ void __launch_bounds__(SimtTile::kThreads)
    bottleneck_expand_project_kernel(const __grid_constant__ ExpandProjectKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<SimtMainloopStorage<Acc>>();
  GemmTile at;
  at.first_row = int32_t(blockIdx.x) * SimtTile::kRows;
  at.rows = params.rows;
  at.first_column = int32_t(blockIdx.y) * SimtTile::kColumns;
  at.columns = params.K;
  at.group = 0;
  at.depth_begin = 0;

  // Expand.
  ThreadTile<Acc> expanded;
  expanded.clear();
  at.depth_end = params.C;
  simt_mainloop(params.x, params.weight, at, expanded, shared);

  // Project the block's input.
  ThreadTile<Acc> projected;
  projected.clear();
  at.depth_end = params.residual_C;
  simt_mainloop(params.residual, params.projection_weight, at, projected, shared);

  // Normalise both, add, activate.
  for_each_element(min(at.rows - at.first_row, int32_t(SimtTile::kRows)),
                   min(at.columns - at.first_column, int32_t(SimtTile::kColumns)),
                   [&](int i, int j, int row, int column) {
                     const int32_t channel = at.first_column + column;
                     const Acc branch =
                         affine(expanded.v[i][j], ptx::load_global_nc(params.scale + channel),
                                ptx::load_global_nc(params.bias + channel));
                     const Acc shortcut = affine(
                         projected.v[i][j], ptx::load_global_nc(params.projection_scale + channel),
                         ptx::load_global_nc(params.projection_bias + channel));
                     const Acc sum = branch + shortcut;
                     ptx::store_global(params.z + int64_t(at.first_row + row) * params.K + channel,
                                       narrow_to<T>(params.relu ? relu(sum) : sum));
                   });
}

}  // namespace rnc
