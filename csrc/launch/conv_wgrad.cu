#include "kernels/conv/sum_splits.cuh"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

template <class T, class Prologue>
Status launch(const ConvPlan& plan, const ConvWgradParams& params, const Prologue& prologue,
              Stream stream) {
  using Acc = AccOf<T>;
  const Conv2dProblem& problem = params.problem;
  Acc* workspace = static_cast<Acc*>(params.workspace);
  const int64_t columns = problem.filter_size();
  const StorePartial<T> epilogue{workspace, problem.weight_size(), columns,
                                 pieces_are_vectors<Acc>({workspace}, columns, columns)};

  // Multiply: dy^T [K, N P Q] by the activation [N P Q, R S C].
  const Transposed gradient(PixelRows<T, Identity<T>>::of_output(params.dy, problem));
  Status status;
  if (plan.path == ConvPath::kGemm) {
    const Transposed activation(PixelRows<T, Prologue>::of_input(params.x, prologue, problem));
    status =
        launch_implicit_gemm(plan, ConvOp::kWgrad, problem, gradient, activation, epilogue, stream);
  } else {
    const Transposed activation(WindowRows<T, Prologue>::of_input(params.x, prologue, problem));
    status =
        launch_implicit_gemm(plan, ConvOp::kWgrad, problem, gradient, activation, epilogue, stream);
  }
  if (!status.ok()) return status;

  // Sum the parts in order.
  const SumSplitsParams<T> sum{workspace, static_cast<T*>(params.dweight), problem.weight_size(),
                               plan.splits};
  const int64_t blocks = (sum.size + kSumSplitsThreads - 1) / kSumSplitsThreads;
  return launch_kernel("conv_wgrad_sum_splits", sum_splits_kernel<T>, Dim3{uint32_t(blocks), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, stream, sum);
}

}  // namespace

Status conv_wgrad(DType dtype, const ConvWgradParams& params, Stream stream) {
  const bool aligned = are_vector_aligned({params.dy, params.x, params.x_scale, params.x_bias});
  const ConvPlan plan = plan_conv(ConvOp::kWgrad, params.problem, dtype, {aligned, params.splits});
  if (plan.error) return {plan.error};
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    if (params.x_scale) {
      const ScaleBiasRelu<T> prologue{static_cast<const Acc*>(params.x_scale),
                                      static_cast<const Acc*>(params.x_bias)};
      return launch<T>(plan, params, prologue, stream);
    }
    return launch<T>(plan, params, Identity<T>{}, stream);
  });
}

}  // namespace rnc
