// The kernels that multiply wgrad's parts, with the main loops of any generation.
#pragma once

#include "launch/implicit_gemm.h"

namespace rnc {
namespace conv_wgrad_kernels {

// The parts of dy^T [K, N P Q] times the activation [N P Q, R S C], into the workspace.
template <Generation kGeneration, class T, class GradientPrologue, class ActivationPrologue>
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
    return launch_implicit_gemm<kGeneration>(plan, ConvOp::kWgrad, gemm, gradient, activation,
                                             epilogue, stream);
  }
  const Transposed activation(
      WindowRows<T, ActivationPrologue>::of_input(params.x, activation_prologue, gemm));
  using Gradient = std::remove_const_t<decltype(gradient)>;
  using Activation = std::remove_const_t<decltype(activation)>;
  return Mainloops<kGeneration>::template of_wgrad_windows<Gradient, Activation>(
      plan, [&](auto tag) {
        using Mainloop = typename decltype(tag)::type;
        GemmShape shape = gemm_shape(plan, ConvOp::kWgrad, gemm);
        // A depthwise one has a column for each tap.
        if (plan.path == ConvPath::kDepthwise) shape.columns = int32_t(columns);
        const auto launch = [&](const auto& store) {
          return launch_gemm<Mainloop>(plan, shape, {gradient, activation}, store, stream);
        };
        if constexpr (Mainloop::kPacksGroups) {
          return launch(
              StorePackedPartial<T>{workspace, size, columns, problem.channels_per_group()});
        } else {
          return launch(epilogue);
        }
      });
}

}  // namespace conv_wgrad_kernels

template <Generation kGeneration>
Status conv_wgrad_by(const ConvPlan& plan, DType dtype, const ConvWgradParams& params,
                     Stream stream) {
  return with_element_type<kGeneration>(dtype, [&](auto type) {
    using T = decltype(type);
    return with_gradient_prologue<T>(
        params.on_load, params.problem.K, [&](const auto& of_gradient) {
          return with_activation_prologue<T>(
              params.x_scale, params.x_bias, params.x_floor, [&](const auto& of_activation) {
                return conv_wgrad_kernels::multiply<kGeneration, T>(plan, params, of_gradient,
                                                                    of_activation, stream);
              });
        });
  });
}

}  // namespace rnc
