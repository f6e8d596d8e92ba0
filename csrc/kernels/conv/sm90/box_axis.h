// Boxes that TMA loads: how wide they are, and how a window moves over an image as its im2col mode
// has it. Host-safe.
#pragma once

#include <algorithm>

#include "kernels/conv/window.h"
#include "ptx/numeric_types.h"

namespace rnc {

// Channels of a box: 128 bytes.
constexpr int box_channels(int element_bytes) { return 128 / element_bytes; }
template <class T>
inline constexpr int kBoxChannels = box_channels(int(sizeof(T)));

// One axis over an image of `size` positions: base position i is i stride + lower, and tap t lies
// first_tap + t tap_shift behind it, never before it.
struct BoxAxis {
  int32_t size;
  int32_t stride, lower;
  int32_t first_tap, tap_shift;

  RNC_HOST_DEVICE int32_t base(int32_t i) const { return i * stride + lower; }
  RNC_HOST_DEVICE int32_t offset(int32_t tap) const { return first_tap + tap * tap_shift; }

  // Where the last of so many base positions lies, as the tensor map has it: behind the image's
  // last position.
  int32_t upper(int32_t positions) const { return base(positions - 1) - (size - 1); }
};

// The base position is the one under the first tap in memory.
inline BoxAxis box_axis(const WindowAxis& window) {
  const int32_t last_tap = std::max(window.taps - 1, 0) * window.tap_shift;
  const int32_t before = std::min(last_tap, 0);
  return {window.size, window.stride, window.origin + before, -before, window.tap_shift};
}

// Whether a tensor map of rank 4 can say so: corners have 8 bits, offsets too, strides 3.
inline bool fits_im2col(const WindowAxis& window) {
  const BoxAxis axis = box_axis(window);
  const auto is_corner = [](int32_t v) { return v >= -128 && v <= 127; };
  const int32_t last = std::max(axis.first_tap, axis.offset(std::max(window.taps - 1, 0)));
  return is_corner(axis.lower) && is_corner(axis.upper(window.positions)) && last <= 255 &&
         axis.stride <= 8;
}

}  // namespace rnc
