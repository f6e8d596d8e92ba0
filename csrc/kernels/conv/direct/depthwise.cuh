// Depthwise convolution: one channel and one filter per group, so that nothing is gained by a
// matrix multiplication. These main loops sum directly, in any dtype, and hand their tile to the
// same epilogues. To the GEMM all channels are one group, and the filters a matrix of which only
// the diagonal of each tap is not zero: column c only meets the depth (tap, c).
#pragma once

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

// fprop and dgrad: 64 rows by 64 channels. Filter is the operand of the real problem, in which
// every channel is a group of its own.
template <class Window, class FilterOperand>
struct DepthwiseMainloop {
  using T = typename Window::Element;
  using Acc = AccOf<T>;
  using Filter = FilterOperand;
  static constexpr int kThreads = 256;
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = 64;
  static constexpr int kTapsAtOnce = kStatsTileRows;
  using Pieces = RowPieces<kColumns, kThreads>;
  // A thread stages the pieces that the epilogue will give it.
  using Rows = StagedRows<Acc, kColumns, 4>;
  struct Storage {
    Rows filters;  // a tap in each row
  };
  struct Params {
    Window window;
    Filter filter;
    bool aligned;  // pieces of 8 channels are whole vectors

    Params(const Window& window, const Filter& filter)
        : window(window),
          filter(filter),
          aligned(is_vector_aligned(window.base()) && rows_are_vectors<T>(window.C)) {}
  };

  Acc sums[Pieces::kPerThread][kGroupElements];

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    // Find the rows and channels of this thread's pieces.
    const Window& window = params.window;
    const int32_t channel = at.first_column + Pieces::column();
    const int count = Pieces::count(at.columns - at.first_column);
    typename Window::Row rows[Pieces::kPerThread];
    RNC_UNROLL
    for (int i = 0; i < Pieces::kPerThread; ++i) {
      rows[i] = window.row(at.first_row + Pieces::row(i), at.rows, 0);
      RNC_UNROLL
      for (Acc& sum : sums[i]) sum = Acc(0);
    }
    const typename Window::Prologue::Piece prologue(window.prologue, channel, count);

    const int32_t taps = at.depth_end / at.columns;  // the depth is [taps, channels]
    for (int32_t first_tap = 0; first_tap < taps; first_tap += kTapsAtOnce) {
      // Publish the filters' next taps.
      put_filters(params.filter, at, first_tap, taps, shared);
      __syncthreads();
      // Multiply, tap by tap.
      const int32_t end = min(taps, first_tap + kTapsAtOnce);
      for (int32_t tap = first_tap; tap < end && count > 0; ++tap) {
        const auto depth = window.depth(tap * at.columns + channel, at.depth_end, 0);
        Acc weights[kGroupElements];
        shared.filters.get(tap - first_tap, Pieces::column(), weights);
        RNC_UNROLL
        for (int i = 0; i < Pieces::kPerThread; ++i) {
          const T* source = window.find(rows[i], depth);
          if (!source) continue;
          ElementGroup<T> piece;
          piece.load(source, 0, count, params.aligned);
          RNC_UNROLL
          for (int e = 0; e < kGroupElements; ++e) {
            if (e >= count) break;
            sums[i][e] += Acc(widen(prologue.apply(piece.v[e], e))) * weights[e];
          }
        }
      }
      // Release the filters.
      __syncthreads();
    }
  }

  // Puts the tile into shared memory; it has one part.
  __device__ __forceinline__ void stage(int /*part*/, Rows& rows) const {
    Pieces::for_each(kRows, [&](int i, int row) { rows.put(row, Pieces::column(), sums[i]); });
  }

 private:
  // Four lanes take neighbouring taps of one channel, which are neighbours in memory.
  static __device__ __forceinline__ void put_filters(const Filter& filter, const GemmTile& at,
                                                     int32_t first_tap, int32_t taps,
                                                     Storage& shared) {
    constexpr int kLanes = kThreads / kColumns;
    const int column = int(threadIdx.x) / kLanes;
    const int32_t channel = at.first_column + column;
    const bool exists = channel < at.columns;
    const int32_t count = min(taps - first_tap, kTapsAtOnce);
    for (int tap = int(threadIdx.x) % kLanes; tap < count; tap += kLanes) {
      const T* weight =
          filter.find(filter.row(0, 1, channel), filter.depth(first_tap + tap, taps, channel));
      const Acc value = exists ? Acc(widen(ptx::load_global_nc(weight))) : Acc(0);
      shared.filters.template put<1>(tap, column, {{value}});
    }
  }
};

// wgrad: the rows are 64 channels, the columns 16 taps, the depth pixels. A thread sums 8 channels
// of one tap over all pixels of its part of the reduction, so nothing is shared.
template <class Gradient, class Activation>
struct DepthwiseWgradMainloop {
  using T = typename Gradient::Element;
  using Acc = AccOf<T>;
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = 16;
  static constexpr int kPiecesDown = kRows / kGroupElements;
  static constexpr int kThreads = kPiecesDown * kColumns;
  static constexpr int kPixelsAtOnce = 16;
  struct Storage {};
  using Rows = StagedRows<Acc, kColumns, 8>;
  struct Params {
    Gradient gradient;
    Activation activation;
    bool aligned;  // pieces of 8 channels are whole vectors

    Params(const Gradient& gradient, const Activation& activation)
        : gradient(gradient),
          activation(activation),
          aligned(is_vector_aligned(gradient.base()) && is_vector_aligned(activation.base()) &&
                  rows_are_vectors<T>(activation.operand.C)) {}
  };

  Acc sums[kGroupElements];

  // The tile at `at`.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage&) {
    RNC_UNROLL
    for (Acc& sum : sums) sum = Acc(0);
    // Find this thread's channels and tap.
    const int32_t channel = at.first_row + piece() * kGroupElements;
    const int32_t tap = at.first_column + column();
    const int count = min(at.rows - channel, kGroupElements);
    if (count <= 0 || tap >= at.columns) return;
    const auto gradient = params.gradient.row(channel, at.rows, 0);
    const auto activation = params.activation.row(tap * at.rows + channel, at.columns * at.rows, 0);
    const typename Activation::Prologue::Piece prologue(params.activation.prologue, channel, count);

    for (int32_t first = at.depth_begin; first < at.depth_end; first += kPixelsAtOnce) {
      // Multiply. These pixels have their own sum, so that rounding errors grow with the number of
      // steps, not of products.
      Acc step[kGroupElements] = {};
      const int32_t end = min(at.depth_end, first + kPixelsAtOnce);
      RNC_UNROLL_BY(4)
      for (int32_t pixel = first; pixel < end; ++pixel) {
        const T* x =
            params.activation.find(activation, params.activation.depth(pixel, at.depth_end, 0));
        if (!x) continue;
        const T* dy = params.gradient.find(gradient, params.gradient.depth(pixel, at.depth_end, 0));
        ElementGroup<T> elements, gradients;
        elements.load(x, 0, count, params.aligned);
        gradients.load(dy, 0, count, params.aligned);
        RNC_UNROLL
        for (int e = 0; e < kGroupElements; ++e) {
          if (e >= count) break;
          step[e] += Acc(widen(prologue.apply(elements.v[e], e))) * gradients.widened(e);
        }
      }
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) sums[e] += step[e];
    }
  }

  // Puts the tile into shared memory; it has one part.
  __device__ __forceinline__ void stage(int /*part*/, Rows& rows) const {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      rows.template put<1>(piece() * kGroupElements + e, column(), {{sums[e]}});
    }
  }

 private:
  static __device__ __forceinline__ int piece() { return int(threadIdx.x) % kPiecesDown; }
  static __device__ __forceinline__ int column() { return int(threadIdx.x) / kPiecesDown; }
};

}  // namespace rnc
