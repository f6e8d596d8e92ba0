#include "kernels/bottleneck/bottleneck_expand.cuh"
#include "launch/conv_fprop.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

template <class T>
Status launch_with_projection(const ConvPlan& plan, const BottleneckExpandParams& params,
                              Stream stream) {
  using Acc = AccOf<T>;
  const ExpandProjectKernelParams<T> kernel_params{
      int32_t(int64_t(params.N) * params.P * params.Q),
      params.K,
      PixelRows<T, Identity<T>>(params.x, {}, params.P, params.Q, params.C, params.C, params.P,
                                params.Q, 1, 1),
      FilterRows<T>(params.weight, params.K, params.C),
      PixelRows<T, Identity<T>>(params.residual, {}, params.H, params.W, params.residual_C,
                                params.residual_C, params.P, params.Q, params.projection_stride,
                                params.projection_stride),
      FilterRows<T>(params.projection_weight, params.K, params.residual_C),
      params.C,
      params.residual_C,
      static_cast<const Acc*>(params.scale),
      static_cast<const Acc*>(params.bias),
      static_cast<const Acc*>(params.projection_scale),
      static_cast<const Acc*>(params.projection_bias),
      static_cast<T*>(params.z),
      params.relu};
  return launch_kernel("bottleneck_expand_project_simt", bottleneck_expand_project_kernel<T>,
                       Dim3{uint32_t(plan.grid[0]), uint32_t(plan.grid[1]), 1},
                       Dim3{SimtTile::kThreads, 1, 1}, sizeof(SimtMainloopStorage<Acc>), stream,
                       kernel_params);
}

}  // namespace

Status bottleneck_expand(DType dtype, const BottleneckExpandParams& params, Stream stream) {
  ConvFpropParams conv{};
  conv.problem = {params.N, params.P, params.Q, params.C, params.K, 1, 1, params.P,
                  params.Q, 0,        0,        1,        1,        1, 1, 1};
  ConvPlan plan = plan_conv(ConvOp::kFprop, conv.problem, dtype);
  if (params.projection_weight) {
    if (plan.error) return {plan.error};
    if (!params.scale || params.partials) {
      return {"bottleneck_expand: a projection needs scale and bias, and gives no statistics"};
    }
    return visit_dtype(dtype, [&](auto type) {
      return launch_with_projection<decltype(type)>(plan, params, stream);
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
  plan.kernel = "bottleneck_expand_simt_gemm";
  return launch_conv_fprop(plan, dtype, conv, stream);
}

}  // namespace rnc
