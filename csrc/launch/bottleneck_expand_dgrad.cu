#include "launch/bottleneck_expand_dgrad.h"
#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {

Status bottleneck_expand_dgrad(DType dtype, const BottleneckExpandDgradParams& params,
                               Stream stream) {
  const Conv2dProblem first = gradient_problem(params);
  PlanLimits limits;
  limits.narrow = true;
  limits.aligned =
      are_vector_aligned({params.dz, params.mask, params.weight, params.x, params.matrix}) &&
      are_vector_aligned({params.x_scale, params.x_bias, params.x_floor});
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_conv(ConvOp::kDgrad, first, dtype, limits);
  if (plan.error) return {plan.error};
  constexpr GenerationNames kNames = {"bottleneck_expand_dgrad_simt_gemm",
                                      "bottleneck_expand_dgrad_sm80_gemm",
                                      "bottleneck_expand_dgrad_sm90_gemm"};
  plan.kernel = kNames.of(plan.generation);
  return with_generation(plan.generation, [&](auto generation) {
    return bottleneck_expand_dgrad_by<generation>(plan, dtype, params, stream);
  });
}

}  // namespace rnc
