// Problems to plan for.
#pragma once

#include <cstdint>

#include "kernels/conv/conv_problem.h"

namespace rnc::test {

// Of n square images, padded so that an odd kernel with stride 1 keeps their size.
inline Conv2dProblem square(int32_t n, int32_t size, int32_t c, int32_t k, int32_t kernel,
                            int32_t stride) {
  const int32_t pad = kernel / 2;
  const int32_t out = Conv2dProblem::output_size(size, pad, 1, kernel, stride);
  return {.N = n,
          .H = size,
          .W = size,
          .C = c,
          .K = k,
          .R = kernel,
          .S = kernel,
          .P = out,
          .Q = out,
          .pad_h = pad,
          .pad_w = pad,
          .stride_h = stride,
          .stride_w = stride,
          .dilation_h = 1,
          .dilation_w = 1,
          .groups = 1};
}

inline Conv2dProblem in_groups(Conv2dProblem p, int32_t groups) {
  p.groups = groups;
  return p;
}

}  // namespace rnc::test
