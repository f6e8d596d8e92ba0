#include "launch/conv_fprop.h"
#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {

ConvPlan plan_conv_fprop(DType dtype, const ConvFpropParams& params) {
  PlanLimits limits;
  limits.aligned =
      are_vector_aligned({params.x, params.weight, params.x_scale, params.x_bias, params.x_floor});
  limits.normalises = params.x_scale != nullptr;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  return plan_conv(ConvOp::kFprop, params.problem, dtype, limits);
}

Status launch_conv_fprop(const ConvPlan& plan, DType dtype, const ConvFpropParams& params,
                         Stream stream) {
  if (plan.error) return {plan.error};
  if (params.partials &&
      (params.scale || params.bias || params.residual || params.relu || params.mask)) {
    return {
        "statistics are those of the raw output: scale, bias, residual, relu and mask must "
        "be off"};
  }
  return with_generation(plan.generation, [&](auto generation) {
    return conv_fprop_by<generation>(plan, dtype, params, stream);
  });
}

Status conv_fprop(DType dtype, const ConvFpropParams& params, Stream stream) {
  return launch_conv_fprop(plan_conv_fprop(dtype, params), dtype, params, stream);
}

}  // namespace rnc
