#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {
namespace {

// The 3x3.
Conv2dProblem convolution(const BottleneckBlockParams& params) {
  return {params.N, params.H, params.W, params.K, params.K, 3, 3, params.H,
          params.W, 1,        1,        1,        1,        1, 1, 1};
}

ConvPlan plan_of(DType dtype, const BottleneckBlockParams& params) {
  PlanLimits limits;
  limits.device = current_device();
  limits.aligned =
      are_vector_aligned({params.x, params.reduce_weight, params.reduce_scale, params.reduce_bias,
                          params.convolve_weight, params.convolve_scale, params.convolve_bias,
                          params.expand_weight, params.expand_scale, params.expand_bias, params.y});
  return plan_bottleneck_block(convolution(params), params.C, dtype, limits);
}

// The reduce, the 3x3, then the expand.
Status in_three_launches(DType dtype, const BottleneckBlockParams& params, Stream stream) {
  BottleneckReduceParams reduce{};
  reduce.N = params.N;
  reduce.H = reduce.P = params.H;
  reduce.W = reduce.Q = params.W;
  reduce.C = params.C;
  reduce.K = params.K;
  reduce.stride = 1;
  reduce.x = params.x;
  reduce.weight = params.reduce_weight;
  reduce.scale = params.reduce_scale;
  reduce.bias = params.reduce_bias;
  reduce.z = params.reduced;
  reduce.relu = true;
  reduce.allow_tf32 = params.allow_tf32;
  if (const Status status = bottleneck_reduce(dtype, reduce, stream); !status.ok()) return status;
  ConvFpropParams convolve{};
  convolve.problem = convolution(params);
  convolve.x = params.reduced;
  convolve.weight = params.convolve_weight;
  convolve.y = params.convolved;
  convolve.scale = params.convolve_scale;
  convolve.bias = params.convolve_bias;
  convolve.relu = true;
  convolve.allow_tf32 = params.allow_tf32;
  if (const Status status = conv_fprop(dtype, convolve, stream); !status.ok()) return status;
  BottleneckExpandParams expand{};
  expand.N = params.N;
  expand.P = params.H;
  expand.Q = params.W;
  expand.C = params.K;
  expand.K = params.C;
  expand.x = params.convolved;
  expand.weight = params.expand_weight;
  expand.scale = params.expand_scale;
  expand.bias = params.expand_bias;
  expand.residual = params.x;
  expand.z = params.y;
  expand.relu = true;
  expand.allow_tf32 = params.allow_tf32;
  return bottleneck_expand(dtype, expand, stream);
}

}  // namespace

bool bottleneck_block_is_fused(DType dtype, const BottleneckBlockParams& params) {
  return plan_of(dtype, params).error == nullptr;
}

Status bottleneck_block(DType dtype, const BottleneckBlockParams& params, Stream stream) {
  if (params.reduced) return in_three_launches(dtype, params, stream);
  const ConvPlan plan = plan_of(dtype, params);
  if (plan.error) return {plan.error};
  // Other generations have no such kernel.
  return bottleneck_block_by<Generation::kSm90>(plan, dtype, params, stream);
}

}  // namespace rnc
