// Depthwise convolution, forward and backward for the input: one channel and one filter per group,
// so that nothing is gained by a matrix multiplication. This main loop sums directly, in any dtype,
// and hands its tile to the same epilogues. To the GEMM all channels are one group, and the filters
// a matrix of which only the diagonal of each tap is not zero: column c only meets the depth (tap,
// c).
#pragma once

#include "kernels/conv/direct/activated_pieces.cuh"
#include "kernels/conv/gemm_tile.h"
#include "tile/row_pieces.cuh"

namespace rnc {

// 64 rows by 64 channels. Filter is the operand of the real problem, in which
// every channel is a group of its own.
template <class Window, class FilterOperand>
struct DepthwiseMainloop {
  using T = typename Window::Element;
  using Acc = AccOf<T>;
  using Filter = FilterOperand;
  static constexpr int kThreads = 256;
  static constexpr int kBlocks = 1;
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = 64;
  static constexpr int kTapsAtOnce = kStatsTileRows;
  using Pieces = RowPieces<kColumns, BlockThreads<kThreads>>;
  // A thread stages the pieces that the epilogue will give it.
  using Rows = StagedRows<Acc, kColumns, 4>;
  struct Storage {
    Rows filters;  // a tap in each row
  };
  struct Params {
    Window window;
    Filter filter;
    bool whole;  // pieces of 8 channels are whole vectors

    Params(const Window& window, const Filter& filter)
        : window(window), filter(filter), whole(window.is_in_pieces()) {}
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
    const ActivatedPieces<Window> pieces(window, channel, count, params.whole);

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
          const ElementGroup<T> piece = pieces.load(source);
          RNC_UNROLL
          for (int e = 0; e < kGroupElements; ++e) {
            if (e >= count) break;
            sums[i][e] += piece.widened(e) * weights[e];
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

}  // namespace rnc
