#include "kernels/bottleneck/bottleneck_expand.cuh"
#include "launch/conv_fprop.h"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace {

// Off where nothing is normalised on load.
template <class T>
using Pixels = PixelRows<T, ScaleBiasRelu<T>>;

template <class SingleMainloop, class T>
Status launch_projection(const ConvPlan& plan, const Conv2dProblem& problem,
                         const BottleneckExpandParams& params, Stream stream) {
  using Acc = AccOf<T>;
  using Mainloop = ExpandProjectMainloop<SingleMainloop>;
  const typename Mainloop::Params operands{
      {Pixels<T>::of_input(params.x, activation_on_load<T>(params), problem),
       FilterRows<T>(params.weight, params.K, params.C)},
      {Pixels<T>(params.residual,
                 {static_cast<const Acc*>(params.projection_x_scale),
                  static_cast<const Acc*>(params.projection_x_bias),
                  static_cast<const Acc*>(params.projection_x_floor)},
                 params.H, params.W, params.residual_C, params.residual_C, params.P, params.Q,
                 params.projection_stride, params.projection_stride),
       FilterRows<T>(params.projection_weight, params.K, params.residual_C)},
      {static_cast<const Acc*>(params.scale), static_cast<const Acc*>(params.bias)},
      {static_cast<const Acc*>(params.projection_scale),
       static_cast<const Acc*>(params.projection_bias)},
      params.residual_C};
  ScaleBiasAddReluStore<T> epilogue{};  // the main loop has scaled already
  epilogue.y = static_cast<T*>(params.z);
  epilogue.mask = params.mask;
  epilogue.row_stride = params.K;
  epilogue.relu = params.relu;
  epilogue.aligned = pieces_are_vectors<T>({params.z}, params.K, params.K);
  const ImplicitGemmParams<Mainloop, DenseRows, 1, ScaleBiasAddReluStore<T>> kernel_params{
      {{gemm_shape(plan, ConvOp::kFprop, problem), operands, {}}}, epilogue};
  return launch_gemms(plan, kernel_params, 1, stream);
}

Status expand_with_projection(DType dtype, const Conv2dProblem& problem,
                              const BottleneckExpandParams& params, Stream stream) {
  if (!params.scale || params.partials) {
    return {"bottleneck_expand: a projection needs scale and bias, and gives no statistics"};
  }
  Conv2dProblem projection = problem;
  projection.C = params.residual_C;
  PlanLimits limits;
  limits.narrow = true;
  limits.device = current_device();
  limits.allow_tf32 = params.allow_tf32;
  limits.aligned =
      are_vector_aligned({params.x, params.weight, params.residual, params.projection_weight}) &&
      are_vector_aligned({params.x_scale, params.x_bias, params.x_floor}) &&
      are_vector_aligned(
          {params.projection_x_scale, params.projection_x_bias, params.projection_x_floor});
  // Both GEMMs by the same main loop.
  const ConvPlan second = plan_conv(ConvOp::kFprop, projection, dtype, limits);
  if (second.error) return {second.error};
  limits.aligned = limits.aligned && second.generation != Generation::kSimt;
  ConvPlan plan = plan_conv(ConvOp::kFprop, problem, dtype, limits);
  if (plan.error) return {plan.error};
  plan.kernel = plan.generation == Generation::kSimt ? "bottleneck_expand_project_simt_gemm"
                                                     : "bottleneck_expand_project_sm80_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    return with_mainloop<Pixels<T>, FilterRows<T>, true>(plan, [&](auto tag) {
      return launch_projection<typename decltype(tag)::type, T>(plan, problem, params, stream);
    });
  });
}

}  // namespace

Status bottleneck_expand(DType dtype, const BottleneckExpandParams& params, Stream stream) {
  ConvFpropParams conv{};
  conv.problem = {params.N, params.P, params.Q, params.C, params.K, 1, 1, params.P,
                  params.Q, 0,        0,        1,        1,        1, 1, 1};
  if (params.projection_weight) {
    return expand_with_projection(dtype, conv.problem, params, stream);
  }
  conv.x = params.x;
  conv.x_scale = params.x_scale;
  conv.x_bias = params.x_bias;
  conv.x_floor = params.x_floor;
  conv.weight = params.weight;
  conv.y = params.z;
  conv.scale = params.scale;
  conv.bias = params.bias;
  conv.residual = params.residual;
  conv.residual_scale = params.residual_scale;
  conv.mask = params.mask;
  conv.partials = params.partials;
  conv.relu = params.relu;
  conv.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_conv_fprop(dtype, conv);
  constexpr PointwiseNames kNames = {"bottleneck_expand_simt_gemm", "bottleneck_expand_sm80_gemm",
                                     "bottleneck_expand_sm80_gathered"};
  plan.kernel = kNames.of(plan);
  return launch_conv_fprop(plan, dtype, conv, stream);
}

}  // namespace rnc
