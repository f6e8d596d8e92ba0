#include "kernels/conv/conv_max_pool.cuh"
#include "kernels/conv/sm80/few_channels.cuh"
#include "launch/implicit_gemm.h"

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

}  // namespace

template <>
Status conv_max_pool_by<Generation::kSm80>(const ConvPlan& plan, DType dtype,
                                           const ConvMaxPoolParams& params, Stream stream) {
  return visit_dtype(dtype, [&](auto type) -> Status {
    using T = decltype(type);
    if constexpr (sizeof(T) == 2) return launch<T>(plan, params, stream);
    return {plan.why};
  });
}

}  // namespace rnc
