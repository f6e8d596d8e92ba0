#include "launch/conv_fprop.h"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

template <class T, class Prologue, class Epilogue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              const Epilogue& epilogue, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  if (plan.path == ConvPath::kGemm) {
    const auto activation = PixelRows<T, Prologue>::of_input(params.x, prologue, problem);
    return launch_implicit_gemm(plan, ConvOp::kFprop, problem, activation,
                                FilterRows<T>(params.weight, problem), epilogue, stream);
  }
  using Window = WindowRows<T, Prologue>;
  if constexpr (sizeof(T) == 2 && Prologue::kChangesNothing) {
    if (plan.path == ConvPath::kFewChannels) {
      return launch_gemm<Sm80FewChannelsMainloop<Sm80NarrowTile, T>>(
          plan, gemm_shape(plan, ConvOp::kFprop, problem),
          {Window::of_input(params.x, prologue, problem), FilterRows<T>(params.weight, problem),
           PixelRuns(problem, Sm80NarrowTile::kRows, problem.Q)},
          epilogue, stream);
    }
  }
  return with_window_mainloop<Window, FilterRows<T>, PackedFilterRows<T>>(plan, [&](auto tag) {
    using Mainloop = typename decltype(tag)::type;
    const Conv2dProblem gemm = gemm_problem(plan, problem);
    return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kFprop, gemm),
                                 {Window::of_input(params.x, prologue, gemm),
                                  typename Mainloop::Filter(params.weight, problem)},
                                 epilogue, stream);
  });
}

template <class T, class Prologue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              Stream stream) {
  using Acc = AccOf<T>;
  T* y = static_cast<T*>(params.y);
  const int64_t K = params.problem.K;
  const bool aligned = pieces_are_vectors<T>(
      {params.y, params.residual, params.scale, params.bias, params.residual_scale}, K,
      gemm_problem(plan, params.problem).filters_per_group());
  if (params.partials) {
    const StoreWithBnStats<T> epilogue{y, static_cast<Acc*>(params.partials), K, aligned};
    return launch<T>(plan, params, prologue, epilogue, stream);
  }
  const ScaleBiasAddReluStore<T> epilogue{y,
                                          static_cast<const Acc*>(params.scale),
                                          static_cast<const Acc*>(params.bias),
                                          static_cast<const T*>(params.residual),
                                          static_cast<const Acc*>(params.residual_scale),
                                          params.mask,
                                          K,
                                          params.relu,
                                          aligned};
  return launch<T>(plan, params, prologue, epilogue, stream);
}

}  // namespace

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
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    return with_activation_prologue<T>(
        params.x_scale, params.x_bias, params.x_floor,
        [&](const auto& prologue) { return launch<T>(plan, params, prologue, stream); });
  });
}

Status conv_fprop(DType dtype, const ConvFpropParams& params, Stream stream) {
  return launch_conv_fprop(plan_conv_fprop(dtype, params), dtype, params, stream);
}

}  // namespace rnc
