#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {
namespace {

// The expand, then the reduce.
Status in_two_launches(DType dtype, const BottleneckExpandReduceParams& params, Stream stream) {
  BottleneckExpandParams expand{};
  expand.N = params.N;
  expand.P = params.P;
  expand.Q = params.Q;
  expand.C = params.C;
  expand.K = params.K;
  expand.x = params.x;
  expand.weight = params.weight;
  expand.scale = params.scale;
  expand.bias = params.bias;
  expand.residual = params.residual;
  expand.z = params.y;
  expand.relu = true;
  expand.allow_tf32 = params.allow_tf32;
  if (const Status status = bottleneck_expand(dtype, expand, stream); !status.ok()) return status;
  BottleneckReduceParams reduce{};
  reduce.N = params.N;
  reduce.H = reduce.P = params.P;
  reduce.W = reduce.Q = params.Q;
  reduce.C = params.K;
  reduce.K = params.L;
  reduce.stride = 1;
  reduce.x = params.y;
  reduce.weight = params.next_weight;
  reduce.scale = params.next_scale;
  reduce.bias = params.next_bias;
  reduce.z = params.z;
  reduce.relu = true;
  reduce.allow_tf32 = params.allow_tf32;
  return bottleneck_reduce(dtype, reduce, stream);
}

}  // namespace

Status bottleneck_expand_reduce(DType dtype, const BottleneckExpandReduceParams& params,
                                Stream stream) {
  const Conv2dProblem expand = {params.N, params.P, params.Q, params.C, params.K, 1, 1, params.P,
                                params.Q, 0,        0,        1,        1,        1, 1, 1};
  PlanLimits limits;
  limits.device = current_device();
  limits.aligned = are_vector_aligned({params.x, params.weight, params.scale, params.bias,
                                       params.residual, params.y, params.next_weight,
                                       params.next_scale, params.next_bias, params.z});
  const ConvPlan plan = plan_expand_reduce(expand, params.L, dtype, limits);
  if (plan.error) return in_two_launches(dtype, params, stream);
  // Other generations have no such kernel.
  return bottleneck_expand_reduce_by<Generation::kSm90>(plan, dtype, params, stream);
}

}  // namespace rnc
