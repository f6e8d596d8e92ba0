// The 1x1 convolutions of ops that take several filters.
#pragma once

#include "bindings/conv_geometry.h"

namespace rnc::bindings {

// The 1x1 convolution `weight` of activations `x`, which are said to have so many channels.
inline Conv2dProblem pointwise_problem(const Arguments& args, const char* weight_name,
                                       const Shape& x, const Tensor& weight, const char* channels) {
  const Shape shape = args.weight(weight_name, weight);
  args.require(shape.H == 1 && shape.W == 1, weight_name, " has ", shape.H, "x", shape.W,
               " filters, expected 1x1");
  args.require(shape.C == x.C, weight_name, " has ", shape.C,
               " channels in each filter, expected the ", channels, ", ", x.C);
  return conv_problem(args, x, shape, {{1, 1}, {0, 0}, {1, 1}, 1});
}

}  // namespace rnc::bindings
