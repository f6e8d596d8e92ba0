// The bottleneck's expand with its projection shortcut: two GEMMs over the same output tile in one
// launch, so that neither convolution's output is ever stored.
#pragma once

#include "kernels/bottleneck/column_affine.cuh"
#include "kernels/conv/gemm_tile.h"

namespace rnc {

// A main loop whose tile is scale (x W^T) + bias + projection_scale (residual Wp^T) +
// projection_bias: both GEMMs have the same rows and columns, and depths of their own.
template <class Mainloop>
struct ExpandProjectMainloop : Mainloop {
  using typename Mainloop::Acc, typename Mainloop::Storage;
  static constexpr int kBlocks = 1;  // two sets of accumulators: all registers there are
  struct Params {
    typename Mainloop::Params expand, project;
    ColumnAffine<Acc> expand_norm, project_norm;
    int32_t residual_C;

    const char* error() const { return expand.error() ? expand.error() : project.error(); }
  };

  // position: in the ring of a main loop that a warp of its own feeds.
  template <class... Position>
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared,
                                      Position&... position) {
    // Expand.
    Mainloop::run(params.expand, at, shared, position...);
    normalise(*this, params.expand_norm, at);
    // Project the block's input.
    Mainloop projected;
    projected.run(params.project, projection(params, at), shared, position...);
    normalise(projected, params.project_norm, at);
    // Add.
    this->add(projected);
  }

  // What that warp loads.
  template <class Position>
  static __device__ __forceinline__ void load(const Params& params, const GemmTile& at,
                                              Storage& shared, Position& position) {
    Mainloop::load(params.expand, at, shared, position);
    Mainloop::load(params.project, projection(params, at), shared, position);
  }

 private:
  static __device__ __forceinline__ GemmTile projection(const Params& params, GemmTile at) {
    at.depth_end = params.residual_C;
    return at;
  }

  static __device__ __forceinline__ void normalise(Mainloop& tile, const ColumnAffine<Acc>& norm,
                                                   const GemmTile& at) {
    for_each_accumulator(tile, at, [&](int32_t channel, Acc& v) {
      v = affine(v, ptx::load_global_input(norm.scale + channel),
                 ptx::load_global_input(norm.bias + channel));
    });
  }
};

}  // namespace rnc
