// Launches a whole bottleneck: as many blocks as run at once.
#pragma once

#include <algorithm>

#include "kernels/bottleneck/bottleneck_block.cuh"
#include "kernels/bottleneck/bottleneck_params.h"
#include "launch/launch_kernel.h"
#include "launch/sm90/tma_operands.h"

namespace rnc {

template <class T>
DealtFilters<T>::DealtFilters(const void* weight, int32_t C, int32_t depth)
    : error(tma_operands::cached(
                &map, tma_operands::tiled<T, 5>(weight, {depth, 2, 4, 4, C / 32},
                                                {depth, 2 * depth, 8 * depth, 32 * depth},
                                                {kBoxChannels<T>, 2, 1, 4, 1}))
                .error) {}

template <class T>
Status launch_bottleneck_block(const ConvPlan& plan, const BottleneckBlockParams& params,
                               Stream stream) {
  using Block = BottleneckBlock<T>;
  using Acc = AccOf<T>;
  constexpr int kWarpgroups = Block::Tile::kWarpgroups;
  const auto norm = [](const void* scale, const void* bias) {
    return ColumnAffine<float>{static_cast<const Acc*>(scale), static_cast<const Acc*>(bias)};
  };
  const int32_t multiprocessors = current_device().multiprocessors;
  const typename Block::Params of{
      static_cast<const T*>(params.x),
      static_cast<T*>(params.y),
      {params.x, params.N, params.H, params.W, params.C},
      {FilterRows<T>(params.reduce_weight, params.K, 1, params.C), FilterTaps{1, 1, params.C}},
      {FilterRows<T>(params.convolve_weight, params.K, 1, 9 * params.K),
       FilterTaps{3, 3, params.K}},
      {params.expand_weight, params.C, params.K},
      norm(params.reduce_scale, params.reduce_bias),
      norm(params.convolve_scale, params.convolve_bias),
      norm(params.expand_scale, params.expand_bias),
      BlockStrips(params.N, params.H, params.W, multiprocessors * kWarpgroups)};
  if (const char* error = of.error()) return {error};
  const int64_t pairs = (of.strips.count - 1) / kWarpgroups + 1;
  const int64_t blocks = std::clamp<int64_t>(multiprocessors, 1, pairs);
  return launch_kernel(plan.kernel, bottleneck_block_kernel<T>, Dim3{uint32_t(blocks), 1, 1},
                       Dim3{Block::kThreads, 1, 1}, sizeof(typename Block::Storage), stream, of, {},
                       1, Start::kEarly);
}

}  // namespace rnc
