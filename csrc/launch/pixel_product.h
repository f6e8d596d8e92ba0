// The ordered sum behind a product of two matrices over the same pixels.
#pragma once

#include "kernels/bottleneck/pixel_product.cuh"
#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {

// Where the results go.
struct PixelProductOutput {
  double* product;    // [rows, columns]
  double* sums;       // [rows], of the first matrix
  void* workspace;    // Acc [splits][rows columns + rows]
  const char* added;  // the name of the launch that adds up the parts
};

inline Status sum_products(const ConvPlan& plan, DType dtype, const Conv2dProblem& problem,
                           bool symmetric, const PixelProductOutput& out, Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using Acc = AccOf<decltype(type)>;
    const SumProductsParams<Acc> sum{static_cast<const Acc*>(out.workspace),
                                     out.product,
                                     out.sums,
                                     problem.K,
                                     problem.C,
                                     plan.splits,
                                     symmetric};
    const int64_t size = problem.weight_size() + problem.K;
    const int64_t blocks = (size + kSumSplitsThreads - 1) / kSumSplitsThreads;
    return launch_kernel(out.added, sum_products_kernel<Acc>, Dim3{uint32_t(blocks), 1, 1},
                         Dim3{kSumSplitsThreads, 1, 1}, 0, stream, sum, {}, 1, Start::kEarly);
  });
}

}  // namespace rnc
