#include "launch/generations.h"
#include "launch/launch_kernel.h"
#include "tile/element_group.cuh"

namespace rnc {

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
  if (plan.error) return {plan.error};
  return bottleneck_expand_reduce_by<Generation::kSm90>(plan, dtype, params,
                                                        stream);  // the others have none
}

}  // namespace rnc
