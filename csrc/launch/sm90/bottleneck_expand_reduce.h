// Launches an expand with the reduce behind it: as many clusters as run at once.
#pragma once

#include <algorithm>

#include "kernels/bottleneck/bottleneck_expand_reduce.cuh"
#include "kernels/bottleneck/bottleneck_params.h"
#include "launch/launch_kernel.h"
#include "launch/sm90/tma_operands.h"

namespace rnc {

template <class T, int kReduced>
Status launch_expand_reduce(const ConvPlan& plan, const BottleneckExpandReduceParams& params,
                            Stream stream) {
  using Fused = ExpandReduce<T, kReduced>;
  using Acc = AccOf<T>;
  const int64_t rows = int64_t(params.N) * params.P * params.Q;
  const int64_t tiles = (rows - 1) / (Fused::kClusterBlocks * Fused::kRows) + 1;
  const typename Fused::Params of{
      {params.x, rows, params.C},
      {params.residual, rows, params.K},
      {params.y, rows, params.K},
      {params.z, rows, params.L},
      {FilterRows<T>(params.weight, params.K, 1, params.C), FilterTaps{1, 1, params.C}},
      {FilterRows<T>(params.next_weight, params.L, 1, params.K), FilterTaps{1, 1, params.K}},
      {static_cast<const Acc*>(params.scale), static_cast<const Acc*>(params.bias)},
      {static_cast<const Acc*>(params.next_scale), static_cast<const Acc*>(params.next_bias)},
      params.C,
      params.K,
      tiles};
  if (const char* error = of.error()) return {error};
  const int64_t at_once = int64_t(current_device().multiprocessors) / Fused::kClusterBlocks;
  const int64_t clusters = std::clamp<int64_t>(at_once, 1, tiles);
  return launch_kernel(plan.kernel, bottleneck_expand_reduce_kernel<T, kReduced>,
                       Dim3{uint32_t(clusters * Fused::kClusterBlocks), 1, 1},
                       Dim3{Fused::kThreads, 1, 1}, sizeof(typename Fused::Storage), stream, of,
                       Dim3{Fused::kClusterBlocks, 1, 1}, 1, Start::kEarly);
}

}  // namespace rnc
