// The forward convolution behind its own op and behind the bottleneck's two ends, which are the
// same kernels under other names.
#pragma once

#include "launch/kernel_library.h"
#include "launch/plan.h"

namespace rnc {

ConvPlan plan_conv_fprop(DType dtype, const ConvFpropParams& params);

// What an op that is a pointwise convolution calls its kernels.
struct PointwiseNames {
  GenerationNames names;
  const char* gathered;

  const char* of(const ConvPlan& plan) const {
    return plan.path == ConvPath::kGathered ? gathered : names.of(plan.generation);
  }
};

// Launches what `plan` says; `plan.kernel` names the launch.
Status launch_conv_fprop(const ConvPlan& plan, DType dtype, const ConvFpropParams& params,
                         Stream stream);

}  // namespace rnc
