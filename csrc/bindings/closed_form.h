// What the passes of batch norm in closed form have in common: x [N, C, H, W], sampled with a
// stride and normalised on load, and dz [N, K, P, Q] behind the bits of a ReLU.
#pragma once

#include "bindings/normalise_on_load.h"

namespace rnc::bindings {

// The pointwise convolution of x with so many filters; all tensors come in pieces of 8 channels.
inline Conv2dProblem closed_form_problem(const Arguments& args, const Shape& x, int32_t filters,
                                         int64_t stride) {
  args.require(x.C % 8 == 0, "x has ", x.C, " channels, expected a multiple of 8");
  args.require(filters % 8 == 0, "dz has ", filters, " channels, expected a multiple of 8");
  return conv_problem(args, x, {filters, x.C, 1, 1}, {{stride, stride}, {0, 0}, {1, 1}, 1});
}

// The same for a gradient of its output, with its bits.
inline Conv2dProblem closed_form_problem(const Arguments& args, const Shape& x, const Tensor& dz,
                                         const OptionalTensor& mask, int64_t stride) {
  const Conv2dProblem problem = closed_form_problem(args, x, args.activation("dz", dz).C, stride);
  args.activation("dz", dz, output_shape(problem));
  args.bit_mask("mask", mask, problem.y_size());
  return problem;
}

}  // namespace rnc::bindings
