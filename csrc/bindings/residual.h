// A block's shortcut in an op: the residual that its end adds, and the gradient that comes back.
#pragma once

#include "bindings/arguments.h"
#include "kernels/fusion/residual_sampling.h"

namespace rnc::bindings {

// Checks a residual [N, C, H, W] of an output [N, K, P, Q] and says how it is read: as it is where
// it has the output's shape, else every `stride`-th pixel, with zeros for channels from C on.
inline ResidualSampling check_residual(const Arguments& args, const OptionalTensor& residual,
                                       int64_t stride, const Shape& output) {
  args.require(stride >= 1 && stride <= INT32_MAX, "residual_stride is ", stride,
               ", expected 1 to ", INT32_MAX);
  if (!residual) return {};
  const Shape shape = args.activation("residual", *residual);
  if (stride == 1 && shape.C == output.C) {
    args.activation("residual", residual, output);
    return {};
  }
  const Shape sampled{shape.N, output.C, int32_t((shape.H - 1) / stride + 1),
                      int32_t((shape.W - 1) / stride + 1)};
  args.require(shape.C <= output.C && sampled.nchw() == output.nchw(), "residual has shape [",
               shape.N, ", ", shape.C, ", ", shape.H, ", ", shape.W, "] with a stride of ", stride,
               ", expected an image of ", output.N, " x ", output.H, " x ", output.W,
               " sampled pixels and at most ", output.C, " channels");
  args.require(output.pixels() <= INT32_MAX, "residual is sampled for ", output.pixels(),
               " pixels, expected at most ", INT32_MAX);
  return {shape.H, shape.W, shape.C, int32_t(stride)};
}

// The channels of another branch's gradient of x, which that branch sampled with a stride and may
// have added channels to.
inline int32_t check_addend(const Arguments& args, const OptionalTensor& addend,
                            const OptionalTensor& mask, int64_t stride, const Shape& x) {
  args.require(addend || !mask, "addend is None, expected a tensor because addend_mask is given");
  args.require(stride >= 1 && stride <= INT32_MAX, "addend_stride is ", stride,
               ", expected a value from 1 to 2^31 - 1");
  if (!addend) return x.C;
  const int32_t channels = args.activation("addend", *addend).C;
  args.require(channels >= x.C, "addend has ", channels, " channels, expected at least x's, ", x.C);
  const Shape sampled{x.N, channels, int32_t((x.H - 1) / stride + 1),
                      int32_t((x.W - 1) / stride + 1)};
  args.activation("addend", addend, sampled);
  args.bit_mask("addend_mask", mask, sampled.size());
  args.require(!mask || (channels % 8 == 0 && x.C % 8 == 0), "addend_mask is given with ", channels,
               " channels of addend for ", x.C,
               " of x, expected multiples of 8: a byte of bits belongs to 8 channels");
  return channels;
}

}  // namespace rnc::bindings
