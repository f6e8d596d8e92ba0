// From per-tile partial results to per-channel vectors, in fp64 and in a fixed order. A block owns
// 32 channels; its 8 rows of threads each walk every 8th tile, and the 8 results are added in
// order.
#pragma once

#include "common/dtype.h"
#include "kernels/batch_norm/batch_norm_params.h"
#include "ptx/grid_dependency.cuh"
#include "ptx/keywords.h"
#include "ptx/memory.cuh"

namespace rnc {

struct FinalizeTile {
  static constexpr int kChannels = 32;
  static constexpr int kSegments = 8;
  static constexpr int kThreads = kChannels * kSegments;
  static constexpr int kBlocks = 1024 / kThreads;  // as many threads as any multiprocessor holds
};

struct FinalizeStorage {
  double partial[FinalizeTile::kSegments][FinalizeTile::kChannels];
};

// The sum over all tiles of term(tile), for the calling thread's channel, visible to all threads of
// that channel.
template <class Term>
__device__ __forceinline__ double sum_over_tiles(int64_t tiles, bool valid, FinalizeStorage& shared,
                                                 Term&& term) {
  const int lane = int(threadIdx.x) % FinalizeTile::kChannels,
            segment = int(threadIdx.x) / FinalizeTile::kChannels;
  double sum = 0;
  if (valid) {
    for (int64_t tile = segment; tile < tiles; tile += FinalizeTile::kSegments) sum += term(tile);
  }
  shared.partial[segment][lane] = sum;
  __syncthreads();
  double total = 0;
  RNC_UNROLL
  for (int s = 0; s < FinalizeTile::kSegments; ++s) total += shared.partial[s][lane];
  __syncthreads();
  return total;
}

template <class Acc>
struct BnFinalizeKernelParams {
  int64_t rows, tiles;
  int32_t C;
  const Acc* partials;
  const Acc* gamma;
  const Acc* beta;
  Acc* running_mean;
  Acc* running_var;
  double momentum, eps;
  Acc *mean, *invstd, *scale, *bias;
};

// grid: (channel blocks)
template <class Acc>
__global__ void __launch_bounds__(FinalizeTile::kThreads, FinalizeTile::kBlocks)
    bn_finalize_kernel(const __grid_constant__ BnFinalizeKernelParams<Acc> params) {
  // Wait for the kernel that left the tiles' results.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  auto& shared = dynamic_smem<FinalizeStorage>();
  const int32_t channel = int32_t(blockIdx.x) * FinalizeTile::kChannels +
                          int32_t(threadIdx.x) % FinalizeTile::kChannels;
  const bool valid = channel < params.C;
  const auto tile_rows = [&](int64_t tile) {
    return double(tile + 1 < params.tiles ? int64_t(kStatsTileRows)
                                          : params.rows - tile * kStatsTileRows);
  };
  const auto tile_mean = [&](int64_t tile) {
    return double(ptx::load_global_input(params.partials + tile * 2 * params.C + channel));
  };
  const auto tile_m2 = [&](int64_t tile) {
    return double(ptx::load_global_input(params.partials + (tile * 2 + 1) * params.C + channel));
  };

  // Merge the tiles' means, then their sums of squares about the common mean (Chan et al. 1983).
  const double rows = double(params.rows);
  const double mean =
      sum_over_tiles(params.tiles, valid, shared,
                     [&](int64_t tile) { return tile_rows(tile) * tile_mean(tile); }) /
      rows;
  const double m2 = sum_over_tiles(params.tiles, valid, shared, [&](int64_t tile) {
    const double distance = tile_mean(tile) - mean;
    return tile_m2(tile) + tile_rows(tile) * distance * distance;
  });
  if (!valid || threadIdx.x >= FinalizeTile::kChannels) return;

  // Write what the normalisation needs.
  const double invstd = 1.0 / sqrt(m2 / rows + params.eps);
  const double gamma = params.gamma ? double(ptx::load_global_input(params.gamma + channel)) : 1.0;
  const double beta = params.beta ? double(ptx::load_global_input(params.beta + channel)) : 0.0;
  const double scale = gamma * invstd;
  ptx::store_global(params.mean + channel, Acc(mean));
  ptx::store_global(params.invstd + channel, Acc(invstd));
  ptx::store_global(params.scale + channel, Acc(scale));
  ptx::store_global(params.bias + channel, Acc(beta - scale * mean));

  // Update the running statistics; the variance is the unbiased one, as in torch.
  if (params.running_mean) {
    const double old_mean = double(ptx::load_global(params.running_mean + channel));
    const double old_var = double(ptx::load_global(params.running_var + channel));
    const double unbiased = m2 / (rows - 1.0);
    ptx::store_global(params.running_mean + channel,
                      Acc(old_mean + params.momentum * (mean - old_mean)));
    ptx::store_global(params.running_var + channel,
                      Acc(old_var + params.momentum * (unbiased - old_var)));
  }
}

template <class Acc>
struct BnBackwardFinalizeKernelParams {
  int64_t rows, tiles;
  int32_t C;
  const Acc* partials;
  const Acc* gamma;
  const Acc* mean;
  const Acc* invstd;
  bool training;
  Acc *dgamma, *dbeta, *coefficients;
};

// grid: (channel blocks)
template <class Acc>
__global__ void __launch_bounds__(FinalizeTile::kThreads, FinalizeTile::kBlocks)
    bn_backward_finalize_kernel(
        const __grid_constant__ BnBackwardFinalizeKernelParams<Acc> params) {
  // Wait for the kernel that left the tiles' results.
  ptx::grid_dependency_wait();
  ptx::grid_dependency_launch();

  auto& shared = dynamic_smem<FinalizeStorage>();
  const int32_t channel = int32_t(blockIdx.x) * FinalizeTile::kChannels +
                          int32_t(threadIdx.x) % FinalizeTile::kChannels;
  const bool valid = channel < params.C;
  const auto partial = [&](int64_t tile, int which) {
    return double(
        ptx::load_global_input(params.partials + (tile * 2 + which) * params.C + channel));
  };

  // Sum g and g (y - mean) over all rows.
  const double sum_g =
      sum_over_tiles(params.tiles, valid, shared, [&](int64_t tile) { return partial(tile, 0); });
  const double sum_moment =
      sum_over_tiles(params.tiles, valid, shared, [&](int64_t tile) { return partial(tile, 1); });
  if (!valid || threadIdx.x >= FinalizeTile::kChannels) return;

  // Write the parameters' gradients.
  const double invstd = double(ptx::load_global_input(params.invstd + channel));
  const double gamma = params.gamma ? double(ptx::load_global_input(params.gamma + channel)) : 1.0;
  const double dgamma = sum_moment * invstd;
  ptx::store_global(params.dgamma + channel, Acc(dgamma));
  ptx::store_global(params.dbeta + channel, Acc(sum_g));

  // Write dy = gamma invstd (g - dbeta / rows - (y - mean) invstd dgamma / rows) as coefficients
  // (Ioffe and Szegedy 2015, sec. 3).
  const double c0 = gamma * invstd;
  const double through_var = params.training ? -c0 * invstd * dgamma / double(params.rows) : 0.0;
  const double through_mean = params.training ? -c0 * sum_g / double(params.rows) : 0.0;
  Acc* out = params.coefficients + channel;
  ptx::store_global(out, Acc(c0));
  ptx::store_global(out + params.C, Acc(through_var));
  ptx::store_global(out + 2 * int64_t(params.C), Acc(through_mean));
  ptx::store_global(out + 3 * int64_t(params.C), ptx::load_global_input(params.mean + channel));
}

}  // namespace rnc
