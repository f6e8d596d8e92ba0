// What the TMA probes share: a tensor map made from a probe's numbers, and one load or store by it.
#pragma once

#include "launch/tensor_map.h"
#include "probe.cuh"
#include "ptx/fence.cuh"
#include "ptx/mbarrier.cuh"
#include "ptx/tma.cuh"
#include "ptx/warpgroup.cuh"

namespace rnc::probes {

struct TmaParams {
  ProbeParams probe;
  ptx::TensorMap map;
};

// Where a probe's numbers stand; tests/probes/families/tma_tensor.py writes them.
struct TmaNumbers {
  static constexpr int kElement = 0, kSwizzle = 1, kDims = 2, kStrides = 7, kElementStrides = 11,
                       kCoordinates = 16, kBoxWords = 21;
  static constexpr int kBox = 22;  // tiles
  static constexpr int kLower = 22, kUpper = 25, kOffsets = 28, kChannels = 31, kPixels = 32;
  // Multicast and groups: the step along the last dimension from one box to the next, and the
  // blocks that get the box of each block.
  static constexpr int kStep = 33, kMasks = 34;
};
using At = TmaNumbers;

// The fields that both kinds of maps have.
template <class Description>
Description describe_tensor(const LaunchArguments& arguments, int rank, const void* base) {
  Description map = {};
  map.base = base;
  map.element = static_cast<TensorElement>(arguments.number(At::kElement));
  map.swizzle = static_cast<Swizzle>(arguments.number(At::kSwizzle));
  map.rank = rank;
  for (int i = 0; i < 5; ++i) {
    map.dims[i] = arguments.number<uint64_t>(At::kDims + i);
    map.element_strides[i] = arguments.number<uint32_t>(At::kElementStrides + i);
  }
  for (int i = 0; i < 4; ++i) {
    map.strides_bytes[i] = arguments.number<uint64_t>(At::kStrides + i);
  }
  return map;
}

inline Status make_tile_map(TmaParams& params, const LaunchArguments& arguments, int rank,
                            const void* base) {
  auto description = describe_tensor<TiledTensorMap>(arguments, rank, base);
  for (int i = 0; i < 5; ++i) description.box[i] = arguments.number<uint32_t>(At::kBox + i);
  params.probe = probe_params(arguments);
  return make_tiled_tensor_map(&params.map, description);
}

inline Status make_im2col_map(TmaParams& params, const LaunchArguments& arguments, int rank,
                              const void* base) {
  auto description = describe_tensor<Im2colTensorMap>(arguments, rank, base);
  for (int i = 0; i < 3; ++i) {
    description.lower[i] = arguments.number(At::kLower + i);
    description.upper[i] = arguments.number(At::kUpper + i);
  }
  description.channels = arguments.number<uint32_t>(At::kChannels);
  description.pixels = arguments.number<uint32_t>(At::kPixels);
  params.probe = probe_params(arguments);
  return make_im2col_tensor_map(&params.map, description);
}

struct BoxStorage {
  alignas(1024) uint32_t box[8192];
  ptx::Mbarrier barrier;
};
inline constexpr uint32_t kWordsBehindBox = 32;  // which must stay untouched

template <int kRank>
__device__ __forceinline__ void read_coordinates(int32_t (&coordinates)[kRank],
                                                 const ProbeParams& p) {
  RNC_UNROLL
  for (int i = 0; i < kRank; ++i) {
    coordinates[i] = static_cast<int32_t>(p.numbers[At::kCoordinates + i]);
  }
}
template <int kCount>
__device__ __forceinline__ void read_offsets(uint16_t (&offsets)[kCount], const ProbeParams& p) {
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) {
    offsets[i] = static_cast<uint16_t>(p.numbers[At::kOffsets + i]);
  }
}

// Makes the whole box recognisable and the barrier ready; for one warp.
__device__ __forceinline__ void prepare_box(BoxStorage& shared, uint32_t words) {
  fill(shared.box, kUntouched, words);
  if (threadIdx.x == 0) {
    ptx::mbarrier_init(shared.barrier, 1, "box");
    ptx::fence_mbarrier_init();
  }
  ptx::fence_proxy_async();
  __syncwarp();
}

}  // namespace rnc::probes
