// Batch norm at inference and ReLU of the columns of a tile that is still in registers.
#pragma once

#include "common/vec.h"
#include "kernels/fusion/activation.cuh"
#include "ptx/memory.cuh"

namespace rnc {

// Batch norm at inference, per column.
template <class Acc>
struct ColumnAffine {
  const Acc* scale;
  const Acc* bias;
};

// v = v * scale + bias of a warpgroup's columns from `first_column` on.
template <int kAccumulators>
__device__ __forceinline__ void normalise(float (&accumulators)[kAccumulators],
                                          const ColumnAffine<float>& norm, int32_t first_column) {
  using Pair = Vec<float, 2>;
  const int32_t own_column = first_column + int32_t(threadIdx.x) % 4 * 2;
  RNC_UNROLL
  for (int i = 0; i < kAccumulators; i += 4) {
    const int32_t column = own_column + i * 2;
    const Pair scales = ptx::load_global_input(reinterpret_cast<const Pair*>(norm.scale + column));
    const Pair biases = ptx::load_global_input(reinterpret_cast<const Pair*>(norm.bias + column));
    RNC_UNROLL
    for (int e = 0; e < 4; ++e) {
      accumulators[i + e] = affine(accumulators[i + e], scales.v[e % 2], biases.v[e % 2]);
    }
  }
}

template <int kAccumulators>
__device__ __forceinline__ void activate(float (&accumulators)[kAccumulators]) {
  RNC_UNROLL
  for (int i = 0; i < kAccumulators; ++i) accumulators[i] = relu(accumulators[i]);
}

}  // namespace rnc
