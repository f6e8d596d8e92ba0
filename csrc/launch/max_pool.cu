#include "kernels/pool/max_pool.cuh"
#include "launch/kernel_library.h"
#include "launch/launch_kernel.h"

namespace rnc {
namespace {

Status check(const MaxPoolGeometry& g) {
  if (g.kernel < 1 || g.kernel * g.kernel > 255)
    return {"max_pool: the window must be 1x1 to 15x15"};
  if (int64_t(g.N) * g.H * g.W > INT32_MAX || int64_t(g.N) * g.P * g.Q > INT32_MAX) {
    return {"max_pool: more than 2^31 pixels"};
  }
  return {};
}

Dim3 grid(int32_t pixels, int32_t C) {
  return {uint32_t((pixels + PoolTile::kPixels - 1) / PoolTile::kPixels),
          uint32_t((C + PoolTile::kChannels - 1) / PoolTile::kChannels), 1};
}

}  // namespace

Status max_pool_forward(DType dtype, const MaxPoolForwardParams& params, Stream stream) {
  const MaxPoolGeometry& g = params.geometry;
  if (const Status status = check(g); !status.ok()) return status;
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const MaxPoolForwardKernelParams<T> kernel_params{g,
                                                      FastDivmod(g.Q),
                                                      FastDivmod(g.P),
                                                      static_cast<const T*>(params.x),
                                                      static_cast<T*>(params.y),
                                                      params.argmax};
    return launch_kernel("max_pool_forward", max_pool_forward_kernel<T>, grid(g.N * g.P * g.Q, g.C),
                         Dim3{PoolTile::kThreads, 1, 1}, 0, stream, kernel_params);
  });
}

Status max_pool_backward(DType dtype, const MaxPoolBackwardParams& params, Stream stream) {
  const MaxPoolGeometry& g = params.geometry;
  if (const Status status = check(g); !status.ok()) return status;
  return visit_dtype(dtype, [&](auto type) {
    using T = decltype(type);
    const MaxPoolBackwardKernelParams<T> kernel_params{g,
                                                       FastDivmod(g.W),
                                                       FastDivmod(g.H),
                                                       static_cast<const T*>(params.dy),
                                                       params.argmax,
                                                       static_cast<T*>(params.dx)};
    return launch_kernel("max_pool_backward", max_pool_backward_kernel<T>,
                         grid(g.N * g.H * g.W, g.C), Dim3{PoolTile::kThreads, 1, 1}, 0, stream,
                         kernel_params);
  });
}

}  // namespace rnc
