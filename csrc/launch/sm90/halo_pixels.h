// Makes the tensor map of pixels under 3x3 windows from what those of other generations are seen
// through.
#pragma once

#include "kernels/conv/sm90/halo_pixels.cuh"
#include "launch/sm90/tma_operands.h"

namespace rnc {

template <class T, class Prologue>
template <class Operand>
HaloPixels<T, Prologue>::HaloPixels(const Operand& window)
    : prologue(window.prologue),
      h(box_axis(window.axis_h)),
      w(box_axis(window.axis_w)),
      taps_h(window.axis_h.taps),
      taps_w(window.axis_w.taps),
      C(window.C),
      channels_per_group(window.channels_per_group),
      places{FastDivmod(window.axis_w.positions / HaloSquare::kSide),
             FastDivmod(window.axis_h.positions / HaloSquare::kSide)} {
  error = tma_operands::make_maps(*this,
                                  tma_operands::pixels<T>(window.image, window.N, h.size, w.size, C,
                                                          HaloSquare::kBoxRows, HaloSquare::kSide));
}

}  // namespace rnc
