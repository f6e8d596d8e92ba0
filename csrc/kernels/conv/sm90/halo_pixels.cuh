// The pixels under 3x3 windows without stride, as boxes that the windows of a square share.
// launch/sm90/halo_pixels.h makes their tensor map.
#pragma once

#include "kernels/conv/sm90/halo_square.h"
#include "kernels/conv/sm90/tma_operands.cuh"

namespace rnc {

template <class T, class PrologueType>
struct HaloPixels {
  using Element = T;
  using Prologue = PrologueType;
  // Bytes of a box, its companion included.
  static constexpr int kBytes =
      HaloSquare::kBoxPixels * kSliceBytes * (Prologue::kHasCompanion ? 2 : 1);

  ptx::TensorMap map;  // tiled over [N, H, W, C]
  CompanionMap<Prologue::kHasCompanion> companion;
  Prologue prologue;
  BoxAxis h, w;
  int32_t taps_h, taps_w;
  int32_t C, channels_per_group;
  HaloRows places;
  const char* error;  // of making the maps, or null

  // From WindowRows.
  template <class Operand>
  explicit HaloPixels(const Operand& operand);

  // Where the box begins that the square at `first_row` sees under tap column s: at a pixel of the
  // image, or outside of it.
  __device__ __forceinline__ HaloRows::Pixel corner(int32_t first_row, int s) const {
    const HaloRows::Pixel first = places.pixel(first_row);
    return {first.n, h.base(first.h), w.base(first.w) + w.offset(s)};
  }

  // The box's line where the square starts under tap row r.
  __device__ __forceinline__ int first_line(int r) const { return h.offset(r) * HaloSquare::kSide; }

  // Loads the box, and its companion.
  template <class Stage>
  __device__ __forceinline__ void load(Stage& stage, ptx::Mbarrier& arrived,
                                       const HaloRows::Pixel& from) const {
    ptx::tma_load(stage.slice.bytes, &map, arrived, {0, from.w, from.h, from.n});
    if constexpr (Prologue::kHasCompanion) {
      ptx::tma_load(stage.companion.bytes, &companion.map, arrived, {0, from.w, from.h, from.n});
    }
  }

  // Which pixel [N H W] a line of the box is; negative: it is outside of the image.
  __device__ __forceinline__ int32_t row(const HaloRows::Pixel& from, int line) const {
    const int32_t i = from.h + line / HaloSquare::kSide, j = from.w + line % HaloSquare::kSide;
    const bool is_inside = uint32_t(i) < uint32_t(h.size) && uint32_t(j) < uint32_t(w.size);
    return is_inside ? (from.n * h.size + i) * w.size + j : -1;
  }
};

}  // namespace rnc
