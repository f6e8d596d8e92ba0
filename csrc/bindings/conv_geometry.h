// A convolution's arguments as a Conv2dProblem.
#pragma once

#include "bindings/arguments.h"
#include "kernels/conv/conv_problem.h"

namespace rnc::bindings {

// int[2] arguments in torch's order, [vertical, horizontal].
struct ConvGeometry {
  const Sizes& stride;
  const Sizes& padding;
  const Sizes& dilation;
  int64_t groups;
};

// Checks that filters `weight` ([K, C / groups, R, S] as N, C, H, W) fit inputs `x`, and derives
// the output's size. All arithmetic is 64-bit; what Conv2dProblem cannot hold raises.
Conv2dProblem conv_problem(const Arguments& args, const Shape& x, const Shape& weight,
                           const ConvGeometry& geometry);

Shape output_shape(const Conv2dProblem& problem);

}  // namespace rnc::bindings
