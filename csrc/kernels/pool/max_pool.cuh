// Max pooling over square windows. The forward keeps the winner's place in its window as one byte;
// the backward gathers: every input pixel asks the windows that cover it, in a fixed order, so
// nothing is added atomically.
#pragma once

#include "common/dtype.h"
#include "common/fast_divmod.h"
#include "kernels/pool/pool_params.h"
#include "kernels/pool/pool_tile.cuh"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc {

template <class T>
struct MaxPoolForwardKernelParams {
  MaxPoolGeometry geometry;
  FastDivmod by_Q, by_P;
  const T* x;
  T* y;
  uint8_t* argmax;
};

// grid: (output pixels / 8, channels / 32)
template <class T>
__global__ void __launch_bounds__(PoolTile::kThreads)
    max_pool_forward_kernel(const __grid_constant__ MaxPoolForwardKernelParams<T> params) {
  using Acc = AccOf<T>;
  const MaxPoolGeometry& g = params.geometry;
  const PoolPosition at;
  const int32_t channel = at.channel;
  const int32_t pixel = int32_t(blockIdx.x) * PoolTile::kPixels + at.part;
  if (channel >= g.C || pixel >= g.N * g.P * g.Q) return;
  // [N P Q] -> [N, P, Q]
  int32_t p, q;
  const int32_t n = params.by_P.divide(params.by_Q.divide(pixel, q), p);

  // Find the window's maximum; the first one wins, and NaN beats everything, as in torch.
  const int32_t h0 = p * g.stride - g.pad, w0 = q * g.stride - g.pad;
  bool found = false;
  Acc best = Acc(0);
  int32_t winner = 0;
  for (int32_t r = 0; r < g.kernel; ++r) {
    for (int32_t s = 0; s < g.kernel; ++s) {
      const int32_t h = h0 + r, w = w0 + s;
      if (h < 0 || h >= g.H || w < 0 || w >= g.W) continue;
      const Acc v = Acc(widen(
          ptx::load_global_nc(params.x + ((int64_t(n) * g.H + h) * g.W + w) * g.C + channel)));
      if (!found || v > best || v != v) {
        found = true;
        best = v;
        winner = r * g.kernel + s;
      }
    }
  }
  const int64_t offset = int64_t(pixel) * g.C + channel;
  ptx::store_global(params.y + offset, narrow_to<T>(best));
  if (params.argmax) ptx::store_global(params.argmax + offset, uint8_t(winner));
}

template <class T>
struct MaxPoolBackwardKernelParams {
  MaxPoolGeometry geometry;
  FastDivmod by_W, by_H;
  const T* dy;
  const uint8_t* argmax;
  T* dx;
};

// grid: (input pixels / 8, channels / 32)
template <class T>
__global__ void __launch_bounds__(PoolTile::kThreads)
    max_pool_backward_kernel(const __grid_constant__ MaxPoolBackwardKernelParams<T> params) {
  using Acc = AccOf<T>;
  const MaxPoolGeometry& g = params.geometry;
  const PoolPosition at;
  const int32_t channel = at.channel;
  const int32_t pixel = int32_t(blockIdx.x) * PoolTile::kPixels + at.part;
  if (channel >= g.C || pixel >= g.N * g.H * g.W) return;
  // [N H W] -> [N, H, W]
  int32_t h, w;
  const int32_t n = params.by_H.divide(params.by_W.divide(pixel, w), h);

  // Ask every window that covers this pixel whether the pixel won it.
  const int32_t h_padded = h + g.pad, w_padded = w + g.pad;
  const int32_t p_first = h_padded < g.kernel ? 0 : (h_padded - g.kernel) / g.stride + 1;
  const int32_t q_first = w_padded < g.kernel ? 0 : (w_padded - g.kernel) / g.stride + 1;
  const int32_t p_last = min(h_padded / g.stride, g.P - 1),
                q_last = min(w_padded / g.stride, g.Q - 1);
  Acc sum = Acc(0);
  for (int32_t p = p_first; p <= p_last; ++p) {
    for (int32_t q = q_first; q <= q_last; ++q) {
      const int64_t offset = ((int64_t(n) * g.P + p) * g.Q + q) * g.C + channel;
      const int32_t place = (h_padded - p * g.stride) * g.kernel + (w_padded - q * g.stride);
      if (int32_t(ptx::load_global_nc(params.argmax + offset)) == place) {
        sum += Acc(widen(ptx::load_global_nc(params.dy + offset)));
      }
    }
  }
  ptx::store_global(params.dx + int64_t(pixel) * g.C + channel, narrow_to<T>(sum));
}

}  // namespace rnc
