// Depthwise wgrad: the gradient of one weight is a sum over pixels alone, in ordered parts like
// that of any convolution.
#pragma once

#include "kernels/conv/direct/activated_pieces.cuh"
#include "kernels/conv/gemm_tile.h"
#include "tile/row_pieces.cuh"

namespace rnc {

// The rows are 64 channels, the columns 16 taps, the depth pixels. A thread sums 8 channels of 4
// taps over every fourth pixel; the four lanes that share them add up at the end.
template <class Gradient, class Activation>
struct DepthwiseWgradMainloop {
  using T = typename Gradient::Element;
  using Acc = AccOf<T>;
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = 16;
  static constexpr int kPieces = kRows / kGroupElements;
  static constexpr int kPixelLanes = 32 / kPieces;
  static constexpr int kTaps = 4;  // of a warp
  static constexpr bool kPacksGroups = false;
  static constexpr int kThreads = kColumns / kTaps * 32;
  static constexpr int kBlocks = 1;
  static constexpr int kPixelsAtOnce = 16;
  static_assert(kTaps == kPixelLanes, "each of the lanes stages a tap");
  struct Storage {};
  using Rows = StagedRows<Acc, kColumns, 8>;
  struct Params {
    Gradient gradient;
    Activation activation;
    bool whole;  // pieces of 8 channels are whole vectors

    Params(const Gradient& gradient, const Activation& activation)
        : gradient(gradient),
          activation(activation),
          whole(gradient.is_in_pieces() && activation.is_in_pieces()) {}
  };

  Acc sums[kTaps][kGroupElements];

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage&) {
    clear(sums);
    const int32_t channel = at.first_row + piece() * kGroupElements;
    const int count = min(at.rows - channel, kGroupElements);
    if (count > 0 && at.first_column + first_tap() < at.columns) {
      // Multiply. In single precision some pixels at a time have their own sum, so that rounding
      // errors grow with the number of steps, not of products.
      if constexpr (sizeof(Acc) == sizeof(double)) {
        multiply(params, at, channel, count, at.depth_begin, at.depth_end, sums);
      } else {
        constexpr int kStep = kPixelLanes * kPixelsAtOnce;
        for (int32_t first = at.depth_begin; first < at.depth_end; first += kStep) {
          Acc step[kTaps][kGroupElements];
          clear(step);
          multiply(params, at, channel, count, first, min(at.depth_end, first + kStep), step);
          add(step);
        }
      }
    }
    // Add the pixel lanes.
    RNC_UNROLL
    for (int lanes = kPieces; lanes < 32; lanes *= 2) RNC_UNROLL
    for (auto& tap : sums) RNC_UNROLL
    for (Acc& sum : tap) sum += __shfl_xor_sync(~0u, sum, lanes);
  }

  // Puts the tile into shared memory; it has one part. A lane stages one of the taps.
  __device__ __forceinline__ void stage(int /*part*/, Rows& rows) const {
    const int own = pixel_lane();
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      Acc sum = sums[0][e];
      RNC_UNROLL
      for (int tap = 1; tap < kTaps; ++tap) sum = tap == own ? sums[tap][e] : sum;
      rows.template put<1>(piece() * kGroupElements + e, first_tap() + own, {{sum}});
    }
  }

 private:
  static __device__ __forceinline__ int piece() { return int(threadIdx.x) % kPieces; }
  static __device__ __forceinline__ int pixel_lane() { return int(threadIdx.x) % 32 / kPieces; }
  static __device__ __forceinline__ int first_tap() { return int(threadIdx.x) / 32 * kTaps; }

  static __device__ __forceinline__ void clear(Acc (&sums)[kTaps][kGroupElements]) {
    RNC_UNROLL
    for (auto& tap : sums) RNC_UNROLL
    for (Acc& sum : tap) sum = Acc(0);
  }

  __device__ __forceinline__ void add(const Acc (&step)[kTaps][kGroupElements]) {
    RNC_UNROLL
    for (int tap = 0; tap < kTaps; ++tap) RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) sums[tap][e] += step[tap][e];
  }

  // Adds the products of this lane's pixels to `step`.
  static __device__ __forceinline__ void multiply(const Params& params, const GemmTile& at,
                                                  int32_t channel, int count, int32_t first_pixel,
                                                  int32_t end, Acc (&step)[kTaps][kGroupElements]) {
    const Activation& activation = params.activation;
    const auto filters = params.gradient.row(channel, at.rows, 0);
    typename Activation::Row taps[kTaps];
    RNC_UNROLL
    for (int tap = 0; tap < kTaps; ++tap) {
      // [R S, C] -> [R S C]
      const int32_t column = (at.first_column + first_tap() + tap) * at.rows + channel;
      taps[tap] = activation.row(column, at.columns * at.rows, 0);
    }
    const ActivatedPieces gradients(params.gradient.operand, channel, count, params.whole);
    const ActivatedPieces activations(activation.operand, channel, count, params.whole);
    for (int32_t pixel = first_pixel + pixel_lane(); pixel < end; pixel += kPixelLanes) {
      const auto seen = activation.depth(pixel, end, 0);
      const ElementGroup<T> gradient =
          gradients.load(params.gradient.find(filters, params.gradient.depth(pixel, end, 0)));
      RNC_UNROLL
      for (int tap = 0; tap < kTaps; ++tap) {
        const T* x = activation.find(taps[tap], seen);
        if (!x) continue;
        const ElementGroup<T> elements = activations.load(x);
        RNC_UNROLL
        for (int e = 0; e < kGroupElements; ++e) {
          if (e >= count) break;
          step[tap][e] += elements.widened(e) * gradient.widened(e);
        }
      }
    }
  }
};

}  // namespace rnc
