// The product of two matrices over all pixels and the sums of the first one's columns: ordered
// parts in the accumulator type, of so few pixels that fp32 will do, merged in fp64.
#pragma once

#include "kernels/conv/sum_splits.cuh"

namespace rnc {

template <class Acc>
struct SumProductsParams {
  const Acc* parts;  // [splits][rows columns + rows]
  double* product;   // [rows][columns]
  double* sums;      // [rows]
  int32_t rows, columns;
  int32_t splits;
  bool symmetric;  // only the parts' elements on and above the diagonal are there
};

// One thread for each element of the product, then for each sum.
template <class Acc>
__global__ void __launch_bounds__(kSumSplitsThreads)
    sum_products_kernel(const __grid_constant__ SumProductsParams<Acc> params) {
  // Wait for the kernel that left the parts.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  const int64_t size = int64_t(params.rows) * params.columns, stride = size + params.rows;
  const int64_t i = int64_t(blockIdx.x) * kSumSplitsThreads + threadIdx.x;
  if (i >= stride) return;
  // [rows columns] -> [rows, columns], mirrored at the diagonal
  const int64_t row = i / params.columns, column = i % params.columns;
  const bool mirrored = params.symmetric && i < size && column < row;
  const int64_t source = mirrored ? column * params.columns + row : i;
  const double sum = sum_in_order(params.parts + source, stride, params.splits);
  ptx::store_global(i < size ? params.product + i : params.sums + (i - size), sum);
}

}  // namespace rnc
