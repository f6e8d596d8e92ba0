// What the plan of the expand's dgrad and its kernels share.
#pragma once

#include "kernels/bottleneck/bottleneck_params.h"

namespace rnc {

// dgrad's GEMM of the gradient by the filters; the other one only differs in its depth.
inline Conv2dProblem gradient_problem(const BottleneckExpandDgradParams& params) {
  Conv2dProblem problem = params.problem;
  problem.H = problem.P;
  problem.W = problem.Q;
  problem.stride_h = problem.stride_w = 1;
  return problem;
}

}  // namespace rnc
