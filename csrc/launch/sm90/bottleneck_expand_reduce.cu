#include <algorithm>

#include "kernels/bottleneck/bottleneck_expand_reduce.cuh"
#include "launch/implicit_gemm.h"
#include "launch/sm90/mainloops.h"

namespace rnc {
namespace {

template <class T, int kReduced>
Status launch(const ConvPlan& plan, const BottleneckExpandReduceParams& params, Stream stream) {
  using Fused = ExpandReduce<T, kReduced>;
  constexpr int kClusterBlocks = Fused::kClusterBlocks;
  const int64_t rows = int64_t(params.N) * params.P * params.Q;
  const int64_t tiles = (rows - 1) / (kClusterBlocks * Fused::kRows) + 1;
  using Acc = AccOf<T>;
  // 1x1 filters over so many channels.
  struct OneTap {
    int32_t channels_per_group;
    int32_t taps_h = 1, taps_w = 1;
  };
  const typename Fused::Params of{
      {params.x, rows, params.C},
      {params.residual, rows, params.K},
      {params.y, rows, params.K},
      {params.z, rows, params.L},
      {FilterRows<T>(params.weight, params.K, 1, params.C), OneTap{params.C}},
      {FilterRows<T>(params.next_weight, params.L, 1, params.K), OneTap{params.K}},
      {static_cast<const Acc*>(params.scale), static_cast<const Acc*>(params.bias)},
      {static_cast<const Acc*>(params.next_scale), static_cast<const Acc*>(params.next_bias)},
      params.C,
      params.K,
      tiles};
  if (const char* error = of.error()) return {error};
  const int64_t at_once = int64_t(current_device().multiprocessors) / kClusterBlocks;
  const int64_t clusters = std::clamp<int64_t>(at_once, 1, tiles);
  return launch_kernel(plan.kernel, bottleneck_expand_reduce_kernel<T, kReduced>,
                       Dim3{uint32_t(clusters * kClusterBlocks), 1, 1}, Dim3{Fused::kThreads, 1, 1},
                       sizeof(typename Fused::Storage), stream, of, Dim3{kClusterBlocks, 1, 1});
}

}  // namespace

template <>
Status bottleneck_expand_reduce_by<Generation::kSm90>(const ConvPlan& plan, DType dtype,
                                                      const BottleneckExpandReduceParams& params,
                                                      Stream stream) {
  return with_element_type<Generation::kSm90>(dtype, [&](auto type) {
    using T = decltype(type);
    if (params.L == 64) return launch<T, 64>(plan, params, stream);
    if (params.L == 128) return launch<T, 128>(plan, params, stream);
    return launch<T, 256>(plan, params, stream);
  });
}

}  // namespace rnc
