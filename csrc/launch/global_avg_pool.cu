#include "kernels/pool/global_avg_pool.cuh"
#include "launch/kernel_library.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

Dim3 grid(int32_t N, int32_t C) {
  return {uint32_t(N), uint32_t((C + PoolTile::kChannels - 1) / PoolTile::kChannels), 1};
}

}  // namespace

Status global_avg_pool_forward(DType dtype, const GlobalAvgPoolForwardParams& params,
                               Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const GlobalAvgPoolForwardKernelParams<T> kernel_params{
        params.pixels, params.C, static_cast<const T*>(params.x), static_cast<T*>(params.y)};
    return launch_kernel("global_avg_pool_forward", global_avg_pool_forward_kernel<T>,
                         grid(params.N, params.C), Dim3{PoolTile::kThreads, 1, 1},
                         sizeof(GlobalAvgPoolStorage<AccOf<T>>), stream, kernel_params);
  });
}

Status global_avg_pool_backward(DType dtype, const GlobalAvgPoolBackwardParams& params,
                                Stream stream) {
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const GlobalAvgPoolBackwardKernelParams<T> kernel_params{
        params.pixels, params.C, static_cast<const T*>(params.dy), static_cast<T*>(params.dx)};
    return launch_kernel("global_avg_pool_backward", global_avg_pool_backward_kernel<T>,
                         grid(params.N, params.C), Dim3{PoolTile::kThreads, 1, 1}, 0, stream,
                         kernel_params);
  });
}

}  // namespace rnc
