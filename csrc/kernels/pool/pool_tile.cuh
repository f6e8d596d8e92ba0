#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc {

// A pooling block: 32 neighbouring channels across the lanes, 8 pixels (or 8 parts of a reduction)
// down the block.
struct PoolTile {
  static constexpr int kChannels = 32;
  static constexpr int kPixels = 8;
  static constexpr int kThreads = kChannels * kPixels;
};

// Where a thread stands in its block, and the channel it owns; blockIdx.y counts channel tiles.
struct PoolPosition {
  int lane, part;  // across the channels, down the block
  int32_t channel;

  __device__ __forceinline__ PoolPosition()
      : lane(int(threadIdx.x) % PoolTile::kChannels),
        part(int(threadIdx.x) / PoolTile::kChannels),
        channel(int32_t(blockIdx.y) * PoolTile::kChannels + lane) {}
};

}  // namespace rnc
