#include "launch/kernel_library.h"
#include "launch/pixel_product.h"

namespace rnc {

Status bottleneck_gram(DType dtype, const BottleneckGramParams& params, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  PlanLimits limits;
  limits.aligned = are_vector_aligned(
      {params.x, params.x_scale, params.x_bias, params.x_floor, params.workspace});
  limits.splits = params.splits;
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_pixel_product(problem, dtype, true, limits);
  if (plan.error) return {plan.error};
  plan.kernel = plan.generation == Generation::kSimt ? "bottleneck_gram_simt_gemm"
                                                     : "bottleneck_gram_sm80_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const auto pixels =
        PixelRows<T, ScaleBiasRelu<T>>::of_input(params.x, activation_on_load<T>(params), problem);
    return launch_pixel_product<T>(
        plan, problem, pixels, pixels,
        {params.gram, params.sums, params.workspace, "bottleneck_gram_sum_products"}, stream);
  });
}

}  // namespace rnc
