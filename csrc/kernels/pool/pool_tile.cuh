#pragma once

#include <cstdint>

namespace rnc {

// A pooling block: 32 neighbouring channels across the lanes, 8 pixels (or 8 parts of a reduction)
// down the block.
struct PoolTile {
  static constexpr int kChannels = 32;
  static constexpr int kPixels = 8;
  static constexpr int kThreads = kChannels * kPixels;
};

}  // namespace rnc
