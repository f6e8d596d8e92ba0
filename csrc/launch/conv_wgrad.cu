#include "kernels/conv/direct/depthwise_wgrad.cuh"
#include "kernels/conv/sum_splits.cuh"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

// The parts of dy^T [K, N P Q] times the activation [N P Q, R S C], into the workspace.
template <class T, class GradientPrologue, class ActivationPrologue>
Status multiply(const ConvPlan& plan, const ConvWgradParams& params,
                const GradientPrologue& gradient_prologue,
                const ActivationPrologue& activation_prologue, Stream stream) {
  using Acc = AccOf<T>;
  const Conv2dProblem& problem = params.problem;
  const Conv2dProblem gemm = gemm_problem(plan, problem);
  Acc* workspace = static_cast<Acc*>(params.workspace);
  const int64_t size = problem.weight_size(), columns = problem.filter_size();
  const StorePartial<T> epilogue{workspace, size, columns,
                                 pieces_are_vectors<Acc>({workspace}, columns, columns)};
  const Transposed gradient(
      PixelRows<T, GradientPrologue>::of_output(params.dy, gradient_prologue, gemm));
  if (plan.path == ConvPath::kGemm) {
    const Transposed activation(
        PixelRows<T, ActivationPrologue>::of_input(params.x, activation_prologue, gemm));
    return launch_implicit_gemm(plan, ConvOp::kWgrad, gemm, gradient, activation, epilogue, stream);
  }
  const Transposed activation(
      WindowRows<T, ActivationPrologue>::of_input(params.x, activation_prologue, gemm));
  using Gradient = std::remove_const_t<decltype(gradient)>;
  using Activation = std::remove_const_t<decltype(activation)>;
  if (plan.path == ConvPath::kDepthwise) {
    if constexpr (GradientPrologue::kHasCompanion) {
      return kNoDepthwiseOnLoad;
    } else {
      GemmShape shape = gemm_shape(plan, ConvOp::kWgrad, gemm);
      shape.columns = int32_t(columns);  // a column for each tap
      return launch_gemm<DepthwiseWgradMainloop<Gradient, Activation>>(
          plan, shape, {gradient, activation}, epilogue, stream);
    }
  }
  if constexpr (sizeof(T) == 2) {
    if (plan.path == ConvPath::kGrouped) {
      using Mainloop = Sm80Mainloop<Sm80PackedFiltersTile, Gradient, Activation>;
      const StorePackedPartial<T> packed{workspace, size, columns, problem.channels_per_group()};
      return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kWgrad, gemm),
                                   {gradient, activation}, packed, stream);
    }
  }
  return launch_implicit_gemm(plan, ConvOp::kWgrad, gemm, gradient, activation, epilogue, stream);
}

template <class T, class GradientPrologue, class ActivationPrologue>
Status launch(const ConvPlan& plan, const ConvWgradParams& params,
              const GradientPrologue& gradient_prologue,
              const ActivationPrologue& activation_prologue, Stream stream) {
  // Multiply.
  const Status status = multiply<T>(plan, params, gradient_prologue, activation_prologue, stream);
  if (!status.ok()) return status;

  // Sum the parts in order.
  const SumSplitsParams<T> sum{static_cast<const AccOf<T>*>(params.workspace),
                               static_cast<T*>(params.dweight), params.problem.weight_size(),
                               plan.splits};
  const int64_t blocks = (sum.size + kSumSplitsThreads - 1) / kSumSplitsThreads;
  return launch_kernel("conv_wgrad_sum_splits", sum_splits_kernel<T>, Dim3{uint32_t(blocks), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, stream, sum);
}

}  // namespace

Status conv_wgrad(DType dtype, const ConvWgradParams& params, Stream stream) {
  const BnBackwardOnLoad& on_load = params.on_load;
  PlanLimits limits;
  limits.aligned =
      are_vector_aligned({params.dy, params.x, params.x_scale, params.x_bias, params.x_floor}) &&
      are_vector_aligned({on_load.y, on_load.coefficients, on_load.gate_scale}) &&
      are_vector_aligned({on_load.gate_bias, params.workspace});
  limits.splits = params.splits;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  limits.narrow = on_load.y != nullptr;
  const ConvPlan plan = plan_conv(ConvOp::kWgrad, params.problem, dtype, limits);
  if (plan.error) return {plan.error};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    return with_gradient_prologue<T>(
        params.on_load, params.problem.K, [&](const auto& gradient_prologue) {
          return with_activation_prologue<T>(
              params.x_scale, params.x_bias, params.x_floor, [&](const auto& activation_prologue) {
                return launch<T>(plan, params, gradient_prologue, activation_prologue, stream);
              });
        });
  });
}

}  // namespace rnc
