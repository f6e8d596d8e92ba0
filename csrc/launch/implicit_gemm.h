// From a plan and its operands to a launch of the implicit GEMM kernel.
#pragma once

#include "kernels/conv/implicit_gemm.cuh"
#include "launch/launch_kernel.h"
#include "launch/plan.h"

namespace rnc {

template <class OperandA, class OperandB, class Epilogue>
Status launch_implicit_gemm(const ConvPlan& plan, ConvOp op, const Conv2dProblem& problem,
                            const OperandA& a, const OperandB& b, const Epilogue& epilogue,
                            Stream stream) {
  using Params = ImplicitGemmParams<OperandA, OperandB, Epilogue>;
  using Storage = ImplicitGemmStorage<typename OperandA::Acc, Epilogue>;
  const bool rows_are_filters = op == ConvOp::kWgrad;
  const GemmShape shape = {int32_t(problem.gemm_m(op)),
                           int32_t(problem.gemm_n(op)),
                           int32_t(problem.gemm_k(op)),
                           problem.groups,
                           plan.splits,
                           plan.depth_per_split,
                           rows_are_filters ? problem.filters_per_group() : 0,
                           rows_are_filters ? 0 : int32_t(problem.gemm_n(op))};
  const Dim3 grid = {uint32_t(plan.grid[0]), uint32_t(plan.grid[1]), uint32_t(plan.grid[2])};
  return launch_kernel(plan.kernel, implicit_gemm_kernel<OperandA, OperandB, Epilogue>, grid,
                       Dim3{SimtTile::kThreads, 1, 1}, sizeof(Storage), stream,
                       Params{shape, a, b, epilogue});
}

}  // namespace rnc
