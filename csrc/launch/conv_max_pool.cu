#include "kernels/conv/conv_max_pool.cuh"
#include "launch/kernel_library.h"
#include "launch/launch_kernel.h"
#include "launch/plan.h"

namespace rnc {
namespace {

template <class T>
Status launch(const ConvPlan& plan, const ConvMaxPoolParams& params, Stream stream) {
  using Acc = AccOf<T>;
  using Mainloop = Sm80FewChannelsMainloop<Sm80PatchTile, T>;
  const Conv2dProblem& problem = params.problem;
  const ConvMaxPoolKernelParams<Mainloop, T> kernel_params{
      {WindowRows<T, Identity<T>>::of_input(params.x, {}, problem),
       FilterRows<T>(params.weight, problem),
       PixelRuns(problem, Mainloop::kRows, PoolPatches::kColumns)},
      PoolPatches(problem),
      FastDivmod(int32_t(plan.column_tiles)),
      problem.K,
      static_cast<const Acc*>(params.scale),
      static_cast<const Acc*>(params.bias),
      static_cast<T*>(params.y),
      is_vector_aligned(params.y) && rows_are_vectors<T>(problem.K)};
  return launch_kernel(plan.kernel, conv_max_pool_kernel<Mainloop, T>,
                       Dim3{uint32_t(plan.grid[0]), 1, 1}, Dim3{Mainloop::kThreads, 1, 1},
                       sizeof(ConvMaxPoolStorage<Mainloop, T>), stream, kernel_params);
}

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
  const ConvPlan plan = plan_conv(ConvOp::kFprop, params.problem, dtype, {.max_pools = true});
  if (plan.error) return {plan.error};
  return visit_dtype(dtype, [&](auto type) -> Status {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) return launch<T>(plan, params, stream);
    return {plan.why};
  });
}

}  // namespace rnc
