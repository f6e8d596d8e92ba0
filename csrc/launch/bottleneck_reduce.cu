#include "launch/implicit_gemm.h"
#include "launch/kernel_library.h"
#include "tile/im2col.cuh"

namespace rnc {

Status bottleneck_reduce(DType dtype, const BottleneckReduceParams& params, Stream stream) {
  if (params.partials && (params.scale || params.relu)) {
    return {
        "bottleneck_reduce: statistics are those of the raw output: scale, bias and relu must be "
        "off"};
  }
  const Conv2dProblem problem = {
      params.N, params.H, params.W, params.C,      params.K,      1, 1, params.P,
      params.Q, 0,        0,        params.stride, params.stride, 1, 1, 1};
  ConvPlan plan = plan_conv(ConvOp::kFprop, problem, dtype);
  if (plan.error) return {plan.error};
  plan.kernel = "bottleneck_reduce_simt_gemm";
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    using Acc = AccOf<T>;
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
                                            nullptr,
                                            params.K,
                                            params.relu};
    return launch_implicit_gemm(plan, ConvOp::kFprop, problem, x, weight, epilogue, stream);
  });
}

}  // namespace rnc
