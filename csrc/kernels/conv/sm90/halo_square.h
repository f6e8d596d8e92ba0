// How 3x3 windows without stride share pixels in shared memory: squares of output pixels, and boxes
// of what all windows of a square see. Host-safe.
#pragma once

#include <cstdlib>

#include "common/fast_divmod.h"
#include "kernels/conv/window.h"
#include "ptx/keywords.h"

namespace rnc {

// A warpgroup's 64 rows are a square of 8 x 8 pixels. 8 pixels of an image's row are as many as the
// swizzle repeats after: in a box of 8 columns the square under the next tap row starts 1024 bytes
// further, where wgmma may start. Under the next tap column it would start within them, so every
// tap column has a box of its own.
struct HaloSquare {
  static constexpr int kSide = 8;
  static constexpr int kPixels = kSide * kSide;
  static constexpr int kTaps = 3;  // along each axis
  static constexpr int kBoxRows = kSide + kTaps - 1;
  static constexpr int kBoxPixels = kBoxRows * kSide;
  // Channels, and columns of the GEMM, of which all taps' filters stay in shared memory.
  static constexpr int kChannels = 64;

  // Squares of a tile, each a warpgroup's: an operand of two tensors takes registers of a fourth.
  static constexpr int of_tile(bool has_companion) { return has_companion ? 3 : 4; }
  static constexpr int tile_rows(bool has_companion) { return of_tile(has_companion) * kPixels; }
};

// Whether squares cover all positions of such windows, and a box all that a square sees.
inline bool fits_halo(const WindowAxis& window) {
  return window.taps == HaloSquare::kTaps && window.stride == 1 &&
         std::abs(window.tap_shift) == 1 && window.positions % HaloSquare::kSide == 0;
}

// Row m = (n, i, j, y, x) of [N, squares_h, squares_w, 8, 8] is pixel (n, 8 i + y, 8 j + x) of
// [N, 8 squares_h, 8 squares_w].
struct HaloRows {
  FastDivmod by_squares_w, by_squares_h;

  struct Pixel {
    int32_t n, h, w;
  };
  RNC_HOST_DEVICE Pixel pixel(int32_t m) const {
    constexpr int kSide = HaloSquare::kSide;
    int32_t i, j;
    const int32_t n = by_squares_h.divide(by_squares_w.divide(m / HaloSquare::kPixels, j), i);
    return {n, i * kSide + m / kSide % kSide, j * kSide + m % kSide};
  }
  RNC_HOST_DEVICE int64_t row(int64_t m) const {
    const Pixel at = pixel(int32_t(m));
    return (int64_t(at.n) * height() + at.h) * width() + at.w;
  }
  RNC_HOST_DEVICE int32_t height() const { return by_squares_h.divisor * HaloSquare::kSide; }
  RNC_HOST_DEVICE int32_t width() const { return by_squares_w.divisor * HaloSquare::kSide; }
};

}  // namespace rnc
