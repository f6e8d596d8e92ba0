#include "kernels/bottleneck/bottleneck_expand.cuh"
#include "launch/conv_fprop.h"
#include "launch/implicit_gemm.h"

namespace rnc {
namespace {

template <class T>
Status launch_with_projection(const ConvPlan& plan, const Conv2dProblem& problem,
                              const BottleneckExpandParams& params, Stream stream) {
  using Acc = AccOf<T>;
  using Pixels = PixelRows<T, Identity<T>>;
  using Mainloop = ExpandProjectMainloop<SimtMainloop<Pixels, FilterRows<T>>>;
  const typename Mainloop::Params operands{
      {Pixels::of_input(params.x, {}, problem), FilterRows<T>(params.weight, params.K, params.C)},
      {Pixels(params.residual, {}, params.H, params.W, params.residual_C, params.residual_C,
              params.P, params.Q, params.projection_stride, params.projection_stride),
       FilterRows<T>(params.projection_weight, params.K, params.residual_C)},
      {static_cast<const Acc*>(params.scale), static_cast<const Acc*>(params.bias)},
      {static_cast<const Acc*>(params.projection_scale),
       static_cast<const Acc*>(params.projection_bias)},
      params.residual_C};
  const ScaleBiasAddReluStore<T> epilogue{static_cast<T*>(params.z),
                                          nullptr,
                                          nullptr,
                                          nullptr,
                                          params.K,
                                          params.relu,
                                          pieces_are_vectors<T>({params.z}, params.K, params.K)};
  return launch_mainloop<Mainloop>(plan, ConvOp::kFprop, problem, operands, epilogue, stream);
}

}  // namespace

Status bottleneck_expand(DType dtype, const BottleneckExpandParams& params, Stream stream) {
  ConvFpropParams conv{};
  conv.problem = {params.N, params.P, params.Q, params.C, params.K, 1, 1, params.P,
                  params.Q, 0,        0,        1,        1,        1, 1, 1};
  if (params.projection_weight) {
    ConvPlan plan = plan_conv(ConvOp::kFprop, conv.problem, dtype, false);
    if (plan.error) return {plan.error};
    if (!params.scale || params.partials) {
      return {"bottleneck_expand: a projection needs scale and bias, and gives no statistics"};
    }
    plan.kernel = "bottleneck_expand_project_simt_gemm";
    return visit_dtype(dtype, [&](auto type) {
      return launch_with_projection<decltype(type)>(plan, conv.problem, params, stream);
    });
  }
  conv.x = params.x;
  conv.weight = params.weight;
  conv.y = params.z;
  conv.scale = params.scale;
  conv.bias = params.bias;
  conv.residual = params.residual;
  conv.partials = params.partials;
  conv.relu = params.relu;
  ConvPlan plan = plan_conv_fprop(dtype, conv);
  plan.kernel = plan.generation == Generation::kSimt ? "bottleneck_expand_simt_gemm"
                                                     : "bottleneck_expand_sm80_gemm";
  return launch_conv_fprop(plan, dtype, conv, stream);
}

}  // namespace rnc
