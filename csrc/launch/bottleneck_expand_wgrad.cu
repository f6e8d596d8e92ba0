#include "launch/kernel_library.h"
#include "launch/pixel_product.h"

namespace rnc {

Status bottleneck_expand_wgrad(DType dtype, const BottleneckExpandWgradParams& params,
                               Stream stream) {
  const Conv2dProblem& problem = params.problem;
  PlanLimits limits;
  limits.aligned = are_vector_aligned({params.dz, params.mask, params.x, params.workspace}) &&
                   are_vector_aligned({params.x_scale, params.x_bias, params.x_floor});
  limits.splits = params.splits;
  limits.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_pixel_product(problem, dtype, false, limits);
  if (plan.error) return {plan.error};
  plan.kernel = plan.generation == Generation::kSimt ? "bottleneck_expand_wgrad_simt_gemm"
                                                     : "bottleneck_expand_wgrad_sm80_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const BitGate<T> gate{params.mask, problem.y_size() / 8};
    return launch_pixel_product<T>(
        plan, problem, PixelRows<T, BitGate<T>>::of_output(params.dz, gate, problem),
        PixelRows<T, ScaleBiasRelu<T>>::of_input(params.x, activation_on_load<T>(params), problem),
        {params.product, params.sums, params.workspace, "bottleneck_expand_wgrad_sum_products"},
        stream);
  });
}

}  // namespace rnc
