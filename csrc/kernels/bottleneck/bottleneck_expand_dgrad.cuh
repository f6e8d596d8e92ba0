// The gradient of the expand's input behind batch norm in closed form: the gradient of its output
// by the filters, its input by a matrix, and a bias.
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "ptx/memory.cuh"

namespace rnc {

// A main loop that chains two others: both GEMMs add to one tile, with the same rows and columns,
// depths of their own.
template <class First, class Second>
struct ExpandDgradMainloop : First::BlockTile {
  using BlockTile = typename First::BlockTile;
  using typename BlockTile::Acc;
  union Storage {
    typename First::Storage first;
    typename Second::Storage second;
  };
  struct Params {
    typename First::Params first;
    typename Second::Params second;
    const Acc* bias;
    int32_t second_depth;
  };

  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    // Start from the bias.
    this->tile.clear();
    for_each_accumulator(*this, at, [&](int32_t channel, Acc& v) {
      v = ptx::load_global_nc(params.bias + channel);
    });
    // Multiply the gradient by the filters.
    First::accumulate(*this, params.first, at, shared.first);
    // Multiply the activation by the matrix.
    GemmTile second_at = at;
    second_at.depth_end = params.second_depth;
    Second::accumulate(*this, params.second, second_at, shared.second);
  }
};

}  // namespace rnc
