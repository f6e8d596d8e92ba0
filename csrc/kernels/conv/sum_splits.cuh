// The ordered sum behind a split reduction: every element adds its parts in the same order, in
// double, so wgrad is bitwise repeatable.
#pragma once

#include "common/dtype.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/memory.cuh"

namespace rnc {

constexpr int kSumSplitsThreads = 256;

// The sum of elements that lie `stride` apart, from the first part to the last.
template <class Acc>
__device__ __forceinline__ double sum_in_order(const Acc* first, int64_t stride, int32_t parts) {
  double sum = 0;
  RNC_UNROLL_BY(8)  // so many loads in flight
  for (int32_t part = 0; part < parts; ++part) {
    sum += double(ptx::load_global_input(first + part * stride));
  }
  return sum;
}

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
  // Wait for the kernel that left the parts.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  const int64_t i = int64_t(blockIdx.x) * kSumSplitsThreads + threadIdx.x;
  if (i >= params.size) return;
  const double sum = sum_in_order(params.parts + i, params.size, params.splits);
  ptx::store_global(params.sum + i, narrow_to<T>(AccOf<T>(sum)));
}

}  // namespace rnc
