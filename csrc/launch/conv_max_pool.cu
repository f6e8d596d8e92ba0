#include "kernels/conv/pool_patches.h"
#include "launch/generations.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

// The convolution, then the pool.
Status in_two_passes(DType dtype, const ConvMaxPoolParams& params, Stream stream) {
  const Conv2dProblem& p = params.problem;
  ConvFpropParams conv{};
  conv.problem = p;
  conv.x = params.x;
  conv.weight = params.weight;
  conv.y = params.convolved;
  conv.scale = params.scale;
  conv.bias = params.bias;
  conv.relu = true;
  conv.allow_tf32 = params.allow_tf32;
  if (const Status status = conv_fprop(dtype, conv, stream); !status.ok()) return status;
  const PoolPatches pool(p);
  return max_pool_forward(dtype,
                          {{p.N, p.P, p.Q, p.K, pool.pooled_P, pool.pooled_Q, PoolPatches::kWindow,
                            PoolPatches::kStride, PoolPatches::kPad},
                           params.convolved,
                           params.y,
                           nullptr},
                          stream);
}

}  // namespace

Status conv_max_pool(DType dtype, const ConvMaxPoolParams& params, Stream stream) {
  if (params.convolved) return in_two_passes(dtype, params, stream);
  PlanLimits limits;
  limits.max_pools = true;
  limits.device = current_device();
  const ConvPlan plan = plan_conv(ConvOp::kFprop, params.problem, dtype, limits);
  if (plan.error) return {plan.error};
  return conv_max_pool_by<Generation::kSm80>(plan, dtype, params, stream);  // the others have none
}

}  // namespace rnc
