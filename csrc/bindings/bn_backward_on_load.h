// The optional arguments of a pass that takes a gradient behind batch norm and ReLU.
#pragma once

#include "bindings/stage.h"

namespace rnc::bindings {

struct BnBackwardArguments {
  const OptionalTensor& y;
  const OptionalTensor& coefficients;
  const OptionalTensor& gate_scale;
  const OptionalTensor& gate_bias;

  // Holds them against the gradient's shape.
  void check(const Arguments& args, const Shape& gradient) const {
    args.together("y", y, "coefficients", coefficients);
    args.together("gate_scale", gate_scale, "gate_bias", gate_bias);
    args.require(y || !gate_scale, "y is None, expected a tensor because gate_scale is given");
    args.activation("y", y, gradient);
    args.accumulators("coefficients", coefficients, {kBnCoefficients, gradient.C});
    args.accumulators("gate_scale", gate_scale, {gradient.C});
    args.accumulators("gate_bias", gate_bias, {gradient.C});
  }

  BnBackwardOnLoad stage(Stage& stage) const {
    return {stage.in("y", y), stage.in("coefficients", coefficients),
            stage.in("gate_scale", gate_scale), stage.in("gate_bias", gate_bias)};
  }
};

// Their part of the op's schema.
#define RNC_BN_BACKWARD_SCHEMA \
  "*, Tensor? y=None, Tensor? coefficients=None, Tensor? gate_scale=None, Tensor? gate_bias=None"

}  // namespace rnc::bindings
