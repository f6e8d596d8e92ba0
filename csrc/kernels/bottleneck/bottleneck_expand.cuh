// The bottleneck's expand with its projection shortcut: two GEMMs over the same output tile in one
// launch, so that neither convolution's output is ever stored.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/fusion/activation.cuh"
#include "ptx/memory.cuh"

namespace rnc {

// Batch norm at inference, per column.
template <class Acc>
struct ColumnAffine {
  const Acc* scale;
  const Acc* bias;
};

// A main loop whose tile is scale (x W^T) + bias + projection_scale (residual Wp^T) +
// projection_bias: both GEMMs have the same rows and columns, and depths of their own.
template <class Mainloop>
struct ExpandProjectMainloop {
  using Acc = typename Mainloop::Acc;
  static constexpr int kThreads = Mainloop::kThreads;
  static constexpr int kBlocks = 1;  // two sets of accumulators: all registers there are
  static constexpr int kRows = Mainloop::kRows;
  static constexpr int kColumns = Mainloop::kColumns;
  using Storage = typename Mainloop::Storage;
  using Rows = typename Mainloop::Rows;
  struct Params {
    typename Mainloop::Params expand, project;
    ColumnAffine<Acc> expand_norm, project_norm;
    int32_t residual_C;
  };

  Mainloop tile;

  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    // Expand.
    tile.run(params.expand, at, shared);
    normalise(tile, params.expand_norm, at);
    // Project the block's input.
    GemmTile projected_at = at;
    projected_at.depth_end = params.residual_C;
    Mainloop projected;
    projected.run(params.project, projected_at, shared);
    normalise(projected, params.project_norm, at);
    // Add.
    tile.add(projected);
  }

  __device__ __forceinline__ void stage(int part, Rows& rows) const { tile.stage(part, rows); }

 private:
  static __device__ __forceinline__ void normalise(Mainloop& tile, const ColumnAffine<Acc>& norm,
                                                   const GemmTile& at) {
    for_each_accumulator(tile, at, [&](int32_t channel, Acc& v) {
      v = affine(v, ptx::load_global_nc(norm.scale + channel),
                 ptx::load_global_nc(norm.bias + channel));
    });
  }
};

}  // namespace rnc
