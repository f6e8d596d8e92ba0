#include "launch/pixel_product.h"

namespace rnc {

Status bottleneck_gram(DType dtype, const BottleneckGramParams& params, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  PlanLimits limits;
  limits.aligned = are_vector_aligned(
      {params.x, params.x_scale, params.x_bias, params.x_floor, params.workspace});
  limits.splits = params.splits;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_pixel_product(problem, dtype, true, limits);
  if (plan.error) return {plan.error};
  constexpr GenerationNames kNames = {"bottleneck_gram_simt_gemm", "bottleneck_gram_sm80_gemm",
                                      "bottleneck_gram_sm90_gemm"};
  plan.kernel = kNames.of(plan.generation);

  // Multiply.
  const Status status = with_generation(plan.generation, [&](auto generation) {
    return bottleneck_gram_by<generation>(plan, dtype, params, stream);
  });
  if (!status.ok()) return status;

  // Sum the parts in order.
  return sum_products(plan, dtype, problem, true,
                      {params.gram, params.sums, params.workspace, "bottleneck_gram_sum_products"},
                      stream);
}

}  // namespace rnc
