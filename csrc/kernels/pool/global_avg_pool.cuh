// The mean over all pixels of an image, per channel, and its backward.
#pragma once

#include "common/dtype.h"
#include "kernels/pool/pool_params.h"
#include "kernels/pool/pool_tile.cuh"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc {

template <class T>
struct GlobalAvgPoolForwardKernelParams {
  int32_t pixels, C;
  const T* x;
  T* y;
};

template <class Acc>
struct GlobalAvgPoolStorage {
  Acc partial[PoolTile::kPixels][PoolTile::kChannels];
};

// grid: (images, channels / 32)
template <class T>
__global__ void __launch_bounds__(PoolTile::kThreads) global_avg_pool_forward_kernel(
    const __grid_constant__ GlobalAvgPoolForwardKernelParams<T> params) {
  using Acc = AccOf<T>;
  auto& shared = dynamic_smem<GlobalAvgPoolStorage<Acc>>();
  const PoolPosition at;
  const T* image = params.x + int64_t(blockIdx.x) * params.pixels * params.C;

  // Sum every 8th pixel.
  Acc sum = Acc(0);
  if (at.channel < params.C) {
    for (int32_t pixel = at.part; pixel < params.pixels; pixel += PoolTile::kPixels) {
      sum += Acc(widen(ptx::load_global_nc(image + int64_t(pixel) * params.C + at.channel)));
    }
  }
  shared.partial[at.part][at.lane] = sum;
  __syncthreads();

  // Add the 8 sums in order.
  if (at.part != 0 || at.channel >= params.C) return;
  Acc total = Acc(0);
  RNC_UNROLL
  for (int s = 0; s < PoolTile::kPixels; ++s) total += shared.partial[s][at.lane];
  ptx::store_global(params.y + int64_t(blockIdx.x) * params.C + at.channel,
                    narrow_to<T>(total / Acc(params.pixels)));
}

template <class T>
struct GlobalAvgPoolBackwardKernelParams {
  int32_t pixels, C;
  const T* dy;
  T* dx;
};

// grid: (images, channels / 32)
template <class T>
__global__ void __launch_bounds__(PoolTile::kThreads) global_avg_pool_backward_kernel(
    const __grid_constant__ GlobalAvgPoolBackwardKernelParams<T> params) {
  using Acc = AccOf<T>;
  const PoolPosition at;
  if (at.channel >= params.C) return;
  const Acc dy =
      Acc(widen(ptx::load_global_nc(params.dy + int64_t(blockIdx.x) * params.C + at.channel)));
  const T share = narrow_to<T>(dy / Acc(params.pixels));
  T* image = params.dx + int64_t(blockIdx.x) * params.pixels * params.C;
  for (int32_t pixel = at.part; pixel < params.pixels; pixel += PoolTile::kPixels) {
    ptx::store_global(image + int64_t(pixel) * params.C + at.channel, share);
  }
}

}  // namespace rnc
