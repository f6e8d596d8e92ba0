// The kernels of the forward convolution, with the main loops of any generation.
#pragma once

#include <type_traits>

#include "kernels/conv/packed_filters.cuh"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace conv_fprop_kernels {

template <Generation kGeneration, class T, class Prologue, class Epilogue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              const Epilogue& epilogue, Stream stream) {
  const Conv2dProblem& problem = params.problem;
  if (plan.path == ConvPath::kGemm) {
    const auto activation = PixelRows<T, Prologue>::of_input(params.x, prologue, problem);
    return launch_implicit_gemm<kGeneration>(plan, ConvOp::kFprop, problem, activation,
                                             FilterRows<T>(params.weight, problem), epilogue,
                                             stream);
  }
  using Window = WindowRows<T, Prologue>;
  using Filter = FilterRows<T>;
  using Packed = PackedFilterRows<T>;
  return Mainloops<kGeneration>::template of_windows<Window, Filter, Packed>(
      plan, problem, [&](auto tag, const auto&... more) {
        using Mainloop = typename decltype(tag)::type;
        const Conv2dProblem gemm = gemm_problem(plan, problem);
        return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kFprop, gemm),
                                     {Window::of_input(params.x, prologue, gemm),
                                      typename decltype(tag)::B(params.weight, problem), more...},
                                     epilogue, stream);
      });
}

template <Generation kGeneration, class T, class Prologue>
Status launch(const ConvPlan& plan, const ConvFpropParams& params, const Prologue& prologue,
              Stream stream) {
  using Acc = AccOf<T>;
  T* y = static_cast<T*>(params.y);
  const int64_t K = params.problem.K;
  const bool aligned =
      pieces_are_vectors<T>(
          {params.y, params.residual, params.scale, params.bias, params.residual_scale}, K,
          gemm_problem(plan, params.problem).filters_per_group()) &&
      (params.residual_sampling.is_dense() || rows_are_vectors<T>(params.residual_sampling.C));
  if (params.partials) {
    const StoreWithBnStats<T> epilogue{y, static_cast<Acc*>(params.partials), K, aligned};
    return launch<kGeneration, T>(plan, params, prologue, epilogue, stream);
  }
  // What normalises on load has no registers left for a residual that is sampled.
  constexpr bool kSamples = std::is_same_v<Prologue, Identity<T>>;
  using Residual = std::conditional_t<kSamples, SampledResidual<T>, DenseResidual<T>>;
  if (!kSamples && !params.residual_sampling.is_dense()) {
    return {"conv_fprop: a sampled residual goes with an input that is read as it is"};
  }
  const ScaleBiasAddReluStore<T, Residual> epilogue{y,
                                                    static_cast<const Acc*>(params.scale),
                                                    static_cast<const Acc*>(params.bias),
                                                    {params.residual, params.residual_sampling},
                                                    static_cast<const Acc*>(params.residual_scale),
                                                    params.mask,
                                                    K,
                                                    params.relu,
                                                    aligned};
  return launch<kGeneration, T>(plan, params, prologue, epilogue, stream);
}

}  // namespace conv_fprop_kernels

template <Generation kGeneration>
Status conv_fprop_by(const ConvPlan& plan, DType dtype, const ConvFpropParams& params,
                     Stream stream) {
  return with_element_type<kGeneration, true>(dtype, [&](auto type) {
    using T = decltype(type);
    return with_activation_prologue<T>(
        params.x_scale, params.x_bias, params.x_floor, [&](const auto& prologue) {
          return conv_fprop_kernels::launch<kGeneration, T>(plan, params, prologue, stream);
        });
  });
}

}  // namespace rnc
