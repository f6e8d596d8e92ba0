#include "launch/pixel_product.h"

namespace rnc {

Status bottleneck_expand_wgrad(DType dtype, const BottleneckExpandWgradParams& params,
                               Stream stream) {
  const Conv2dProblem& problem = params.problem;
  PlanLimits limits;
  limits.aligned = are_vector_aligned({params.dz, params.mask, params.x, params.workspace}) &&
                   are_vector_aligned({params.x_scale, params.x_bias, params.x_floor});
  limits.splits = params.splits;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_pixel_product(problem, dtype, false, limits);
  if (plan.error) return {plan.error};
  constexpr GenerationNames kNames = {"bottleneck_expand_wgrad_simt_gemm",
                                      "bottleneck_expand_wgrad_sm80_gemm",
                                      "bottleneck_expand_wgrad_sm90_gemm"};
  plan.kernel = kNames.of(plan.generation);

  // Multiply.
  const Status status = with_generation(plan.generation, [&](auto generation) {
    return bottleneck_expand_wgrad_by<generation>(plan, dtype, params, stream);
  });
  if (!status.ok()) return status;

  // Sum the parts in order.
  return sum_products(
      plan, dtype, problem, false,
      {params.product, params.sums, params.workspace, "bottleneck_expand_wgrad_sum_products"},
      stream);
}

}  // namespace rnc
