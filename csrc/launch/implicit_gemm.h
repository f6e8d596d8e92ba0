// From a plan and its operands to a launch of the implicit GEMM kernel.
#pragma once

#include <initializer_list>

#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "launch/launch_kernel.h"
#include "launch/plan.h"

namespace rnc {

template <class Mainloop, class Epilogue>
Status launch_mainloop(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem,
                       const typename Mainloop::Params& operands, const Epilogue& epilogue,
                       Stream stream) {
  using Params = ImplicitGemmParams<Mainloop, Epilogue>;
  using Storage = ImplicitGemmStorage<Mainloop, Epilogue>;
  const bool rows_are_filters = op == ConvOp::kWgrad;
  const GemmShape shape = {int32_t(problem.gemm_m(op)),
                           int32_t(problem.gemm_n(op)),
                           int32_t(problem.gemm_k(op)),
                           problem.groups,
                           plan.splits,
                           plan.depth_per_split,
                           rows_are_filters ? problem.filters_per_group() : 0,
                           rows_are_filters ? 0 : int32_t(problem.gemm_n(op)),
                           FastDivmod(int32_t(plan.column_tiles))};
  const Dim3 grid = {uint32_t(plan.grid[0]), uint32_t(plan.grid[1]), uint32_t(plan.grid[2])};
  return launch_kernel(plan.kernel, implicit_gemm_kernel<Mainloop, Epilogue>, grid,
                       Dim3{Mainloop::kThreads, 1, 1}, sizeof(Storage), stream,
                       Params{shape, operands, epilogue});
}

// The main loop that the plan has chosen, on these operands.
template <class OperandA, class OperandB, class Epilogue>
Status launch_implicit_gemm(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem,
                            const OperandA& a, const OperandB& b, const Epilogue& epilogue,
                            Stream stream) {
  if constexpr (sizeof(typename OperandA::Element) == 2) {
    if (plan.generation == Generation::kSm80) {
      if (plan.tile_n == Sm80LargeTile::kColumns) {
        return launch_mainloop<Sm80Mainloop<Sm80LargeTile, OperandA, OperandB>>(
            plan, op, problem, {a, b}, epilogue, stream);
      }
      return launch_mainloop<Sm80Mainloop<Sm80NarrowTile, OperandA, OperandB>>(
          plan, op, problem, {a, b}, epilogue, stream);
    }
  }
  return launch_mainloop<SimtMainloop<OperandA, OperandB>>(plan, op, problem, {a, b}, epilogue,
                                                           stream);
}

inline bool are_vector_aligned(std::initializer_list<const void*> tensors) {
  for (const void* tensor : tensors) {
    if (!is_vector_aligned(tensor)) return false;
  }
  return true;
}

// Whether the epilogue's pieces of 8 columns are whole vectors in every row of a matrix that starts
// at each of `tensors` (null: absent) and of which a group has `group_columns` columns.
template <class T>
bool pieces_are_vectors(std::initializer_list<const void*> tensors, int64_t row_stride,
                        int64_t group_columns) {
  return are_vector_aligned(tensors) && rows_are_vectors<T>(row_stride) &&
         rows_are_vectors<T>(group_columns);
}

}  // namespace rnc
