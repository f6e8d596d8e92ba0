#include "launch/conv_fprop.h"

namespace rnc {

Status bottleneck_reduce(DType dtype, const BottleneckReduceParams& params, Stream stream) {
  ConvFpropParams conv{};
  conv.problem = {params.N, params.H, params.W, params.C,      params.K,      1, 1, params.P,
                  params.Q, 0,        0,        params.stride, params.stride, 1, 1, 1};
  conv.x = params.x;
  conv.weight = params.weight;
  conv.y = params.z;
  conv.scale = params.scale;
  conv.bias = params.bias;
  conv.partials = params.partials;
  conv.relu = params.relu;
  conv.allow_tf32 = params.allow_tf32;
  ConvPlan plan = plan_conv_fprop(dtype, conv);
  constexpr PointwiseNames kNames = {
      {"bottleneck_reduce_simt_gemm", "bottleneck_reduce_sm80_gemm", "bottleneck_reduce_sm90_gemm"},
      "bottleneck_reduce_sm80_gathered"};
  plan.kernel = kNames.of(plan);
  return launch_conv_fprop(plan, dtype, conv, stream);
}

}  // namespace rnc
