#include "launch/conv_fprop.h"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

namespace rnc {
namespace {

template <class T, class Epilogue>
Status launch_few_channels(const ConvPlan& plan, const Conv2dProblem& problem,
                           const WindowRows<T, Identity<T>>& image, const FilterRows<T>& filter,
                           const Epilogue& epilogue, Stream stream) {
  using Mainloop = Sm80FewChannelsMainloop<Sm80NarrowTile, T>;
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> params{
      {{gemm_shape(plan, ConvOp::kFprop, problem), {image, filter, PixelRuns(problem)}, {}}},
      epilogue};
  return launch_gemms(plan, params, 1, stream);
}

template <class T, class Prologue, class Epilogue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              const Epilogue& epilogue, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  const FilterRows<T> filter(params.weight, problem.filters_per_group(), problem.filter_size());
  if (plan.path == ConvPath::kGemm) {
    const auto activation = PixelRows<T, Prologue>::of_input(params.x, prologue, problem);
    return launch_implicit_gemm(plan, ConvOp::kFprop, problem, activation, filter, epilogue,
                                stream);
  }
  const auto activation = WindowRows<T, Prologue>::of_input(params.x, prologue, problem);
  if constexpr (sizeof(T) == 2 && Prologue::kChangesNothing) {
    if (plan.path == ConvPath::kFewChannels) {
      return launch_few_channels(plan, problem, activation, filter, epilogue, stream);
    }
  }
  return launch_implicit_gemm(plan, ConvOp::kFprop, problem, activation, filter, epilogue, stream);
}

template <class T, class Prologue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              Stream stream) {
  using Acc = AccOf<T>;
  T* y = static_cast<T*>(params.y);
  const int64_t K = params.problem.K;
  const bool aligned =
      pieces_are_vectors<T>({params.y, params.residual}, K, params.problem.filters_per_group());
  if (params.partials) {
    const StoreWithBnStats<T> epilogue{y, static_cast<Acc*>(params.partials), K, aligned};
    return launch<T>(plan, params, prologue, epilogue, stream);
  }
  const ScaleBiasAddReluStore<T> epilogue{y,
                                          static_cast<const Acc*>(params.scale),
                                          static_cast<const Acc*>(params.bias),
                                          static_cast<const T*>(params.residual),
                                          K,
                                          params.relu,
                                          aligned};
  return launch<T>(plan, params, prologue, epilogue, stream);
}

}  // namespace

ConvPlan plan_conv_fprop(DType dtype, const ConvFpropParams& params) {
  return plan_conv(ConvOp::kFprop, params.problem, dtype,
                   {.aligned = are_vector_aligned({params.x, params.weight}),
                    .normalises = params.x_scale != nullptr});
}

Status launch_conv_fprop(const ConvPlan& plan, DType dtype, const ConvFpropParams& params,
                         Stream stream) {
  if (plan.error) return {plan.error};
  if (params.partials && (params.scale || params.bias || params.residual || params.relu)) {
    return {
        "statistics are those of the raw output: scale, bias, residual and relu must "
        "be off"};
  }
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

Status conv_fprop(DType dtype, const ConvFpropParams& params, Stream stream) {
  return launch_conv_fprop(plan_conv_fprop(dtype, params), dtype, params, stream);
}

}  // namespace rnc
