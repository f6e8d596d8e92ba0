#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {

Status conv_dgrad(DType dtype, const ConvDgradParams& params, Stream stream) {
  const BnBackwardOnLoad& on_load = params.on_load;
  PlanLimits limits;
  limits.aligned =
      are_vector_aligned({params.dy, params.weight, on_load.y}) &&
      are_vector_aligned({on_load.coefficients, on_load.gate_scale, on_load.gate_bias});
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  limits.narrow = on_load.y != nullptr;
  limits.takes_sums = params.partials != nullptr;
  const ConvPlan plan = plan_conv(ConvOp::kDgrad, params.problem, dtype, limits);
  if (plan.error) return {plan.error};
  return with_generation(plan.generation, [&](auto generation) {
    return conv_dgrad_by<generation>(plan, dtype, params, stream);
  });
}

}  // namespace rnc
