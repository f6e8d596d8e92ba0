#include "kernels/conv/sum_splits.cuh"
#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {
namespace {

template <class T>
Status sum_splits(const ConvPlan& plan, const ConvWgradParams& params, Stream stream) {
  const SumSplitsParams<T> sum{static_cast<const AccOf<T>*>(params.workspace),
                               static_cast<T*>(params.dweight), params.problem.weight_size(),
                               plan.splits};
  const int64_t blocks = (sum.size + kSumSplitsThreads - 1) / kSumSplitsThreads;
  return launch_kernel("conv_wgrad_sum_splits", sum_splits_kernel<T>, Dim3{uint32_t(blocks), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, stream, sum, {}, 1, Start::kEarly);
}

}  // namespace

Status conv_wgrad(DType dtype, const ConvWgradParams& params, Stream stream) {
  const BnBackwardOnLoad& on_load = params.on_load;
  PlanLimits limits;
  limits.aligned = are_vector_aligned({params.dy, params.x, params.x_scale, params.x_bias}) &&
                   are_vector_aligned({on_load.y, on_load.coefficients, on_load.gate_scale}) &&
                   are_vector_aligned({on_load.gate_bias, params.x_floor, params.workspace});
  limits.splits = params.splits;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  limits.narrow = on_load.y != nullptr;
  const ConvPlan plan = plan_conv(ConvOp::kWgrad, params.problem, dtype, limits);
  if (plan.error) return {plan.error};

  // Multiply.
  const Status status = with_generation(plan.generation, [&](auto generation) {
    return conv_wgrad_by<generation>(plan, dtype, params, stream);
  });
  if (!status.ok()) return status;

  // Sum the parts in order.
  return visit_dtype(dtype,
                     [&](auto type) { return sum_splits<decltype(type)>(plan, params, stream); });
}

}  // namespace rnc
