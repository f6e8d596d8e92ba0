// Which elements of an image the rows of an im2col matrix see. Host-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "kernels/conv/conv_problem.h"

namespace rnc {

// One axis: row position i sees, at tap t, position i * stride + origin + t * tap_shift of an image
// of `size` positions (zero outside).
struct WindowAxis {
  int32_t size;
  int32_t positions;  // row positions
  int32_t stride, origin;
  int32_t taps, tap_shift;
};

// The forward pass: the rows are output positions, the image is x.
inline WindowAxis fprop_axis(int32_t size, int32_t positions, int32_t stride, int32_t pad,
                             int32_t taps, int32_t dilation) {
  return {size, positions, stride, -pad, taps, dilation};
}

// The backward pass for the input positions h = residue + stride * i, which see the same taps of
// the filter: tap r reads output position (h + pad - r * dilation) / stride, where that is a whole
// number. Those taps are first_tap + t * tap_step; there may be none.
struct GradientAxis {
  WindowAxis window;  // over the output's gradient
  int32_t first_tap, tap_step;
};

// size, taps, pad, stride, dilation: of the convolution's input; output: positions of its output.
inline GradientAxis gradient_axis(int32_t residue, int32_t size, int32_t output, int32_t stride,
                                  int32_t pad, int32_t taps, int32_t dilation) {
  const int32_t common = std::gcd(stride, dilation);
  const int32_t tap_step = stride / common;
  int32_t first_tap = 0;
  while (first_tap < tap_step && (residue + pad - first_tap * dilation) % stride != 0) ++first_tap;
  const bool sees_taps = first_tap < std::min(tap_step, taps);
  GradientAxis axis;
  axis.window.size = output;
  axis.window.positions = (size - residue + stride - 1) / stride;
  axis.window.stride = 1;
  axis.window.origin = sees_taps ? (residue + pad - first_tap * dilation) / stride : 0;
  axis.window.taps = sees_taps ? (taps - first_tap + tap_step - 1) / tap_step : 0;
  axis.window.tap_shift = -(dilation / common);
  axis.first_tap = first_tap;
  axis.tap_step = tap_step;
  return axis;
}

// The input pixels (residue_h + stride i, residue_w + stride j): dgrad's rows that see the same
// taps.
struct GradientClass {
  GradientAxis h, w;
  int32_t residue_h, residue_w;

  static int32_t count(const Conv2dProblem& p) {
    return std::min(p.stride_h, p.H) * std::min(p.stride_w, p.W);
  }

  GradientClass(const Conv2dProblem& p, int32_t index)
      : residue_h(index / std::min(p.stride_w, p.W)), residue_w(index % std::min(p.stride_w, p.W)) {
    h = gradient_axis(residue_h, p.H, p.P, p.stride_h, p.pad_h, p.R, p.dilation_h);
    w = gradient_axis(residue_w, p.W, p.Q, p.stride_w, p.pad_w, p.S, p.dilation_w);
  }

  int64_t rows(const Conv2dProblem& p) const {
    return int64_t(p.N) * h.window.positions * w.window.positions;
  }
  int64_t taps() const { return int64_t(h.window.taps) * w.window.taps; }
};

}  // namespace rnc
