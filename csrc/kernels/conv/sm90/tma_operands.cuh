// Operands of the implicit GEMM as boxes that TMA loads. What the operands of other generations
// find element by element (operands.cuh), the tensor maps say here: strides, windows, and that
// everything outside is zero. launch/sm90/tma_operands.h makes them.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/conv/sm90/box_axis.h"
#include "kernels/fusion/prologue.cuh"
#include "ptx/cluster.cuh"
#include "ptx/tma.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

// kBoxChannels channels under one tap.
struct TapSlice {
  int32_t r = 0, s = 0, channel = 0;
};

// The depth of fprop and dgrad in such steps: [taps_h, taps_w, channels of a group].
template <class T>
struct TapSlices {
  int32_t taps_h, taps_w, channels;

  __device__ __forceinline__ int32_t count() const {
    return taps_h * taps_w * ((channels + kBoxChannels<T> - 1) / kBoxChannels<T>);
  }
  __device__ __forceinline__ void advance(TapSlice& at) const {
    at.channel += kBoxChannels<T>;
    if (at.channel < channels) return;
    at.channel = 0;
    if (++at.s < taps_w) return;
    at.s = 0;
    ++at.r;
  }
};

// A stage of pixels, and where the prologue reads a second tensor that one's.
template <class Slice, bool kHasCompanion>
struct BoxStage {
  Slice slice;
};
template <class Slice>
struct BoxStage<Slice, true> {
  Slice slice, companion;
};

// The second tensor itself.
template <bool kExists>
struct CompanionMap {};
template <>
struct CompanionMap<true> {
  ptx::TensorMap map;
};

// The (sampled) pixels under a window, or the rows of a matrix, as boxes of so many of them by
// kBoxChannels channels.
template <class T, class PrologueType, int kPixels>
struct TmaPixels {
  using Element = T;
  using Prologue = PrologueType;
  // Bytes of a box, its companion included.
  static constexpr int kBytes = kPixels * kSliceBytes * (Prologue::kHasCompanion ? 2 : 1);

  ptx::TensorMap map;  // im2col over [N, H, W, C], or tiled over [rows, C]
  CompanionMap<Prologue::kHasCompanion> companion;
  Prologue prologue;
  bool is_matrix;
  BoxAxis h, w;
  int32_t taps_h, taps_w;
  int32_t C, channels_per_group;
  FastDivmod by_positions_w, by_positions_h;
  const char* error;  // of making the maps, or null

  // From PixelRows or WindowRows.
  template <class Operand>
  explicit TmaPixels(const Operand& operand);
  // The same for the filters that the pixels meet.
  template <class Operand, class FilterOperand>
  TmaPixels(const Operand& operand, const FilterOperand& filters);

  // The first pixel of a box.
  struct Base {
    int32_t row;
    int32_t n, h, w;  // only of windows
  };
  __device__ __forceinline__ Base base(int32_t row) const {
    if (is_matrix) return {row, 0, 0, 0};
    // [N positions_h positions_w] -> [N, positions_h, positions_w]
    int32_t i, j;
    const int32_t n = by_positions_h.divide(by_positions_w.divide(row, j), i);
    return {row, n, h.base(i), w.base(j)};
  }

  // Loads the box at `from` under the tap, and its companion, into panels from `panel` on.
  template <class Stage>
  __device__ __forceinline__ void load(Stage& stage, int panel, ptx::Mbarrier& arrived,
                                       const Base& from, const TapSlice& at) const {
    load(stage.slice.panel(panel), map, arrived, from, at);
    if constexpr (Prologue::kHasCompanion) {
      load(stage.companion.panel(panel), companion.map, arrived, from, at);
    }
  }

  // Whether a pixel with the base position `from` is inside the image under the tap. Of a matrix
  // every one is.
  __device__ __forceinline__ bool is_inside(const Base& from, const TapSlice& at) const {
    return is_matrix || (uint32_t(from.h + h.offset(at.r)) < uint32_t(h.size) &&
                         uint32_t(from.w + w.offset(at.s)) < uint32_t(w.size));
  }

 private:
  __device__ __forceinline__ void load(unsigned char* bytes, const ptx::TensorMap& of,
                                       ptx::Mbarrier& arrived, const Base& from,
                                       const TapSlice& at) const {
    if (is_matrix) {
      ptx::tma_load(bytes, &of, arrived, {at.channel, from.row});
    } else {
      const uint16_t offsets[2] = {uint16_t(w.offset(at.s)), uint16_t(h.offset(at.r))};
      ptx::tma_load_im2col(bytes, &of, arrived, {at.channel, from.w, from.h, from.n}, offsets);
    }
  }
};

// The filters of kTileColumns columns of fprop's or dgrad's GEMM: their rows [K, R S C/groups],
// channels contiguous along the depth, or their columns [C/groups, taps K/groups], channels
// contiguous along the GEMM's columns. Each of kBlocks blocks of a cluster loads its share for all.
template <class T, int kTileColumns, bool kDepthIsContiguous, int kBlocks>
struct TmaFilters {
  using Slice =
      std::conditional_t<kDepthIsContiguous, KMajorSlice<kTileColumns>, MnMajorSlice<kTileColumns>>;

  static constexpr int kShareColumns = kTileColumns / kBlocks;
  static constexpr uint16_t kAllBlocks = (1 << kBlocks) - 1;

  ptx::TensorMap map;  // over [filters, taps_h, taps_w, C/groups]
  int32_t filters_per_group;
  const char* error;  // of making the map, or null

  // From FilterRows or FilterColumns, with the taps that the pixels have.
  template <class Operand, class Pixels>
  TmaFilters(const Operand& operand, const Pixels& pixels);

  __device__ __forceinline__ void load(Slice& slice, ptx::Mbarrier& arrived, const TapSlice& at,
                                       int32_t group, int32_t first_column) const {
    const int32_t first_filter = group * filters_per_group;
    const int share = kBlocks == 1 ? 0 : int(ptx::cluster_rank()) * kShareColumns;
    if constexpr (kDepthIsContiguous) {
      load(slice.bytes + share * kSliceBytes, arrived,
           {at.channel, at.s, at.r, first_filter + first_column + share});
    } else {
      constexpr int kPanelColumns = Slice::kMatrixRowsOfPanel;
      RNC_UNROLL
      for (int column = 0; column < kShareColumns; column += kPanelColumns) {
        load(slice.panel((share + column) / kPanelColumns), arrived,
             {first_column + share + column, at.s, at.r, first_filter + at.channel});
      }
    }
  }

 private:
  __device__ __forceinline__ void load(unsigned char* bytes, ptx::Mbarrier& arrived,
                                       const int32_t (&coordinates)[4]) const {
    if constexpr (kBlocks == 1) {
      ptx::tma_load(bytes, &map, arrived, coordinates);
    } else {
      ptx::tma_load_multicast(bytes, &map, arrived, coordinates, kAllBlocks);
    }
  }
};

}  // namespace rnc
