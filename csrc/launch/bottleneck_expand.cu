#include "kernels/bottleneck/bottleneck_expand.cuh"
#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"

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
  if (params.partials && (params.scale || params.residual || params.relu)) {
    return {
        "bottleneck_expand: statistics are those of the raw output: scale, bias, residual and relu "
        "must be off"};
  }
  if (params.projection_weight && !params.scale) {
    return {"bottleneck_expand: a projection needs scale and bias"};
  }
  const Conv2dProblem problem = {params.N, params.P, params.Q, params.C, params.K, 1, 1, params.P,
                                 params.Q, 0,        0,        1,        1,        1, 1, 1};
  ConvPlan plan = plan_conv(ConvOp::kFprop, problem, dtype);
  if (plan.error) return {plan.error};
  plan.kernel = "bottleneck_expand_simt_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
    if (params.projection_weight) return launch_with_projection<T>(plan, params, stream);
    const auto x = PixelRows<T, Identity<T>>::of_input(params.x, Identity<T>{}, problem);
    const FilterRows<T> weight(params.weight, params.K, params.C);
    T* z = static_cast<T*>(params.z);
    if (params.partials) {
      const StoreWithBnStats<T> epilogue{z, static_cast<Acc*>(params.partials), params.K};
      return launch_implicit_gemm(plan, ConvOp::kFprop, problem, x, weight, epilogue, stream);
    }
    const ScaleBiasAddReluStore<T> epilogue{z,
                                            static_cast<const Acc*>(params.scale),
                                            static_cast<const Acc*>(params.bias),
                                            static_cast<const T*>(params.residual),
                                            params.K,
                                            params.relu};
    return launch_implicit_gemm(plan, ConvOp::kFprop, problem, x, weight, epilogue, stream);
  });
}

}  // namespace rnc
