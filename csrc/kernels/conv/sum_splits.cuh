// The ordered sum behind a split reduction: every element adds its parts in the same order, in
// double, so wgrad is bitwise repeatable.
#pragma once

#include "common/dtype.h"
#include "ptx/memory.cuh"

namespace rnc {

constexpr int kSumSplitsThreads = 256;

template <class T>
struct SumSplitsParams {
  const AccOf<T>* parts;  // [splits][size]
  T* sum;                 // [size]
  int64_t size;
  int32_t splits;
};

template <class T>
__global__ void __launch_bounds__(kSumSplitsThreads)
    sum_splits_kernel(const __grid_constant__ SumSplitsParams<T> params) {
  const int64_t i = int64_t(blockIdx.x) * kSumSplitsThreads + threadIdx.x;
  if (i >= params.size) return;
  double sum = 0;
  for (int32_t split = 0; split < params.splits; ++split) {
    sum += double(ptx::load_global_nc(params.parts + split * params.size + i));
  }
  ptx::store_global(params.sum + i, narrow_to<T>(AccOf<T>(sum)));
}

}  // namespace rnc
