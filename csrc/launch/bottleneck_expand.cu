#include "launch/conv_fprop.h"
#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {
namespace {

Status expand_with_projection(DType dtype, const Conv2dProblem& problem,
                              const BottleneckExpandParams& params, Stream stream) {
  if (!params.scale || params.partials) {
    return {"bottleneck_expand: a projection needs scale and bias, and gives no statistics"};
  }
  Conv2dProblem projection = problem;
  projection.H = params.H;
  projection.W = params.W;
  projection.C = params.residual_C;
  projection.stride_h = projection.stride_w = params.projection_stride;
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
  limits.newest = second.generation;
  ConvPlan plan = plan_conv(ConvOp::kFprop, problem, dtype, limits);
  if (plan.error) return {plan.error};
  constexpr GenerationNames kNames = {"bottleneck_expand_project_simt_gemm",
                                      "bottleneck_expand_project_sm80_gemm",
                                      "bottleneck_expand_project_sm90_gemm"};
  plan.kernel = kNames.of(plan.generation);
  return with_generation(plan.generation, [&](auto generation) {
    return expand_with_projection_by<generation>(plan, dtype, problem, params, stream);
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
  constexpr PointwiseNames kNames = {
      {"bottleneck_expand_simt_gemm", "bottleneck_expand_sm80_gemm", "bottleneck_expand_sm90_gemm"},
      "bottleneck_expand_sm80_gathered"};
  plan.kernel = kNames.of(plan);
  return launch_conv_fprop(plan, dtype, conv, stream);
}

}  // namespace rnc
