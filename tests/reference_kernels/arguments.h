// How the reference kernels read their arguments, as tests/reference_kernels/problems.py passes
// them.
#pragma once

#include "../device_library/device_library.h"
#include "kernels/conv/conv_problem.h"

namespace rnc::reference {

inline uint32_t divide_up(int64_t count, int64_t step) {
  return static_cast<uint32_t>((count + step - 1) / step);
}

// numbers: N, H, W, C, K, R, S, then padding, stride and dilation, each of height and width.
inline Conv2dProblem read_conv_problem(const LaunchArguments& arguments) {
  Conv2dProblem problem = {};
  int32_t* const fields[] = {
      &problem.N,        &problem.H,          &problem.W,         &problem.C,     &problem.K,
      &problem.R,        &problem.S,          &problem.pad_h,     &problem.pad_w, &problem.stride_h,
      &problem.stride_w, &problem.dilation_h, &problem.dilation_w};
  int index = 0;
  for (int32_t* field : fields) *field = arguments.number(index++);
  problem.groups = 1;
  problem.P = Conv2dProblem::output_size(problem.H, problem.pad_h, problem.dilation_h, problem.R,
                                         problem.stride_h);
  problem.Q = Conv2dProblem::output_size(problem.W, problem.pad_w, problem.dilation_w, problem.S,
                                         problem.stride_w);
  return problem;
}

}  // namespace rnc::reference
