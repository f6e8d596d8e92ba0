// From two matrices over the same pixels to the launches that multiply them and add up the parts.
#pragma once

#include "kernels/bottleneck/pixel_product.cuh"
#include "kernels/conv/simt/row_sums.cuh"
#include "kernels/conv/sm80/row_sums.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {

// Where the results go.
struct PixelProductOutput {
  double* product;    // [rows, columns]
  double* sums;       // [rows], of the first matrix
  void* workspace;    // Acc [splits][rows columns + rows]
  const char* added;  // the name of the launch that adds up the parts
};

// Calls launch(MainloopTag<Mainloop>{}) with the main loop that the plan has chosen.
template <class OperandA, class OperandB, class Launch>
Status with_row_sums_mainloop(const ConvPlan& plan, Launch&& launch) {
  if constexpr (kHasMma<typename OperandA::Element>) {
    if (plan.generation == Generation::kSm80) {
      if constexpr (!std::is_same_v<OperandA, OperandB>) {
        return launch(MainloopTag<Sm80RowSumsMainloop<Sm80NarrowTile, OperandA, OperandB>>{});
      } else if (plan.tile_n == Sm80SmallTile::kColumns) {
        return launch(MainloopTag<Sm80RowSumsMainloop<Sm80SmallTile, OperandA, OperandB>>{});
      } else {
        return launch(MainloopTag<Sm80RowSumsMainloop<Sm80LargeTile, OperandA, OperandB>>{});
      }
    }
  }
  return launch(MainloopTag<SimtRowSumsMainloop<OperandA, OperandB>>{});
}

// a^T b and the sums of a's columns, a [pixels, K] and b [pixels, C].
template <class T, class Rows, class Columns>
Status launch_pixel_product(const ConvPlan& plan, const Conv2dProblem& problem, const Rows& a,
                            const Columns& b, const PixelProductOutput& out, Stream stream) {
  using Acc = AccOf<T>;
  constexpr bool kIsGram = std::is_same_v<Rows, Columns>;
  const int64_t size = problem.weight_size();
  Acc* parts = static_cast<Acc*>(out.workspace);
  // Multiply.
  const StorePartialWithRowSums<T> epilogue{
      {parts, size + problem.K, problem.C, pieces_are_vectors<Acc>({parts}, problem.C, problem.C)},
      parts + size,
      kIsGram};
  const Status status =
      with_row_sums_mainloop<Transposed<Rows>, Transposed<Columns>>(plan, [&](auto tag) {
        using Mainloop = typename decltype(tag)::type;
        GemmShape shape = gemm_shape(plan, ConvOp::kWgrad, problem);
        shape.symmetric = kIsGram;
        return launch_gemm<Mainloop>(plan, shape, {Transposed(a), Transposed(b)}, epilogue, stream);
      });
  if (!status.ok()) return status;

  // Sum the parts in order.
  const SumProductsParams<Acc> sum{parts,     out.product, out.sums, problem.K,
                                   problem.C, plan.splits, kIsGram};
  const int64_t blocks = (size + problem.K + kSumSplitsThreads - 1) / kSumSplitsThreads;
  return launch_kernel(out.added, sum_products_kernel<Acc>, Dim3{uint32_t(blocks), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, stream, sum);
}

}  // namespace rnc
