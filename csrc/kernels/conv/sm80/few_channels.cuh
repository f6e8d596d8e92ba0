// The Ampere main loop for convolutions of few channels, stems: A's fragments are loaded straight
// out of the image, which lies in shared memory as pixel_runs.h says, one filter row at a time. A
// pixel is loaded once per filter row, not once per tap as an im2col matrix has it.
#pragma once

#include <cstring>

#include "kernels/conv/gemm_tile.h"
#include "kernels/conv/operands.cuh"
#include "kernels/conv/sm80/block_tile.cuh"
#include "kernels/conv/sm80/pixel_runs.h"
#include "tile/register_mainloop.cuh"

namespace rnc {

// The runs of pixels under a tile, and where each output pixel's window starts in them.
template <int kPixels>
struct PixelRunsSlice {
  alignas(16) unsigned char bytes[kPixels * PixelRuns::kBytesPerPixel];
};
template <int kPixels>
struct PixelWindows {
  static constexpr bool kDepthIsContiguous = true;
  const PixelRunsSlice<kPixels>& runs;
  const int32_t (&offsets)[kPixels];

  // Row r of the 8 x 16 bytes whose corner is row `first`, `chunk` along the depth.
  __device__ __forceinline__ const void* matrix_row(int first, int chunk, int r) const {
    return runs.bytes + offsets[first + r] + chunk * 16;
  }
};

// Up to 4 neighbouring channels of a pixel or of a tap, zeros behind them.
template <class T>
struct ChannelUnit {
  Vec<T, PixelRuns::kUnitSlots> slots;
  static_assert(sizeof(slots) == PixelRuns::kUnitBytes);

  // Null: all zeros.
  __device__ __forceinline__ void fetch(const T* source, int32_t channels) {
    const int32_t count = source ? channels : 0;
    RNC_UNROLL
    for (int c = 0; c < PixelRuns::kUnitSlots; ++c) {
      slots.v[c] = c < count ? ptx::load_global_nc(source + c) : narrow_to<T>(0.0f);
    }
  }
  __device__ __forceinline__ void put(const void* place) const {
    using Words = Vec<uint32_t, PixelRuns::kUnitBytes / 4>;
    Words words;
    memcpy(&words, &slots, sizeof words);
    *static_cast<Words*>(const_cast<void*>(place)) = words;
  }
};

// One thread's units of the image, as many threads as there are output pixels: its pixels for all
// filter rows, found once.
template <class T, int kPixels>
struct PixelRunsLoader {
  using Image = WindowRows<T, Identity<T>>;
  static constexpr int kHeld = PixelRuns::kBytesPerPixel / PixelRuns::kUnitBytes;

  const Image& image;
  const int32_t units;     // of the tile's runs
  const int32_t channels;  // in this thread's units
  typename Image::Row pixels[kHeld];
  ChannelUnit<T> held[kHeld];

  // row_start(i): the first window of the tile's row i, of whose first row q pixels are not the
  // tile's.
  template <class RowStart>
  __device__ __forceinline__ PixelRunsLoader(const Image& image, const PixelRuns& runs, int32_t q,
                                             RowStart&& row_start)
      : image(image),
        units((runs.window_offset(q, kPixels - 1) + PixelRuns::kWindowBytes) /
              PixelRuns::kUnitBytes),
        channels(runs.channels - runs.channel_of(unit(0))) {
    const int32_t first_unit = q * runs.step / PixelRuns::kUnitBytes;
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      // [units] -> [rows, pixels, units of a pixel]; runs start with whole pixels and kPixels is
      // even, so all units of a thread have the same channels
      int32_t in_row;
      const int32_t row = runs.by_row_units.divide(first_unit + unit(i), in_row);
      const int32_t pixel = runs.pixel_of(in_row);
      pixels[i] = row_start(row);
      if (in_row >= runs.run_units) pixels[i].h = PixelPosition::kOutside;
      pixels[i].w += pixel;
      pixels[i].offset += pixel * runs.channels + runs.channel_of(unit(0));
    }
  }

  static __device__ __forceinline__ int unit(int i) { return int(threadIdx.x) + i * kPixels; }

  __device__ __forceinline__ void fetch(const PixelRuns::Slice& at) {
    const typename Image::Depth tap = image.tap(at.r, at.s);
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      if (i * kPixels >= units) break;
      held[i].fetch(image.find(pixels[i], tap), channels);
    }
  }
  __device__ __forceinline__ void put(PixelRunsSlice<kPixels>& shared) const {
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      if (unit(i) >= units) break;
      held[i].put(shared.bytes + unit(i) * PixelRuns::kUnitBytes);
    }
  }
};

// One thread's units of the filters: one tap of some of them, padded as the image's pixels are.
template <class T, int kFilters, int kThreads>
struct FilterTapsLoader {
  using Filters = FilterRows<T>;
  static constexpr int kUnits = PixelRuns::kWindowBytes / PixelRuns::kUnitBytes;
  static constexpr int kAtOnce = kThreads / kUnits;
  static constexpr int kHeld = kFilters / kAtOnce;

  const Filters& filters;
  typename Filters::Row rows[kHeld];
  ChannelUnit<T> held[kHeld];

  __device__ __forceinline__ FilterTapsLoader(const Filters& filters, const GemmTile& at)
      : filters(filters) {
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      rows[i] = filters.row(at.first_column + filter(i), at.columns, 0);
    }
  }

  static __device__ __forceinline__ int unit() { return int(threadIdx.x) % kUnits; }
  static __device__ __forceinline__ int filter(int i) {
    return int(threadIdx.x) / kUnits + i * kAtOnce;
  }

  __device__ __forceinline__ void fetch(const PixelRuns& runs, const PixelRuns::Slice& at) {
    const int32_t s = at.s + runs.pixel_of(unit()), first_channel = runs.channel_of(unit());
    const typename Filters::Depth depth = {(at.r * runs.taps + s) * runs.channels + first_channel,
                                           s < runs.taps};
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      held[i].fetch(filters.find(rows[i], depth), runs.channels - first_channel);
    }
  }
  __device__ __forceinline__ void put(OperandSlice<kFilters>& shared) const {
    RNC_UNROLL
    for (int i = 0; i < kHeld; ++i) {
      held[i].put(shared.at(filter(i), unit() * PixelRuns::kUnitBytes));
    }
  }
};

template <class Tile, class T>
struct Sm80FewChannelsMainloop : Sm80BlockTile<Tile, T> {
  using Base = Sm80BlockTile<Tile, T>;
  using Base::kColumns, Base::kRows, Base::kThreads, Base::tile;
  static_assert(kThreads == kRows && Tile::kSliceBytes == PixelRuns::kWindowBytes);
  struct Storage {
    PixelRunsSlice<kRows> image[2];
    OperandSlice<kColumns> filters[2];
    int32_t window_offsets[kRows];
  };
  struct Params {
    WindowRows<T, Identity<T>> image;
    FilterRows<T> filters;
    PixelRuns runs;
  };

  // The tile at `at`: consecutive pixels of the output.
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, Storage& shared) {
    // [output pixels] -> [output rows, Q]
    const FastDivmod& by_Q = params.runs.by_row;
    int32_t q;
    const int32_t output_row = by_Q.divide(at.first_row, q);
    run(params, at, q, shared, [&](int32_t row) {
      return params.image.row((output_row + row) * int32_t(by_Q.divisor), at.rows, 0);
    });
  }

  // The columns at `at` of a tile of pixels in rows, as PixelRunsLoader has them.
  template <class RowStart>
  __device__ __forceinline__ void run(const Params& params, const GemmTile& at, int32_t q,
                                      Storage& shared, RowStart&& row_start) {
    tile.clear();
    const PixelRuns& runs = params.runs;
    shared.window_offsets[threadIdx.x] = runs.window_offset(q, int(threadIdx.x));
    PixelRunsLoader<T, kRows> image(params.image, runs, q, row_start);
    FilterTapsLoader<T, kColumns, kThreads> filters(params.filters, at);
    register_mainloop(
        runs.slices(),
        [&](int, int slice) {
          image.fetch(runs.slice(slice));
          filters.fetch(runs, runs.slice(slice));
        },
        [&](int stage, int) {
          image.put(shared.image[stage]);
          filters.put(shared.filters[stage]);
        },
        [&](int stage, int slice) {
          const int32_t depth = (runs.taps - runs.slice(slice).s) * runs.slots;
          tile.multiply(PixelWindows<kRows>{shared.image[stage], shared.window_offsets},
                        Base::warp_row(), shared.filters[stage], Base::warp_column(),
                        [&](auto& fragments, int step) { cut(fragments, depth - step * 16); });
        });
  }

 private:
  // The pixels behind the last tap belong to other windows: what they hold, NaN too, must not meet
  // the filters' zeros.
  template <class Fragments>
  static __device__ __forceinline__ void cut(Fragments& fragments, int32_t depth) {
    if (depth >= 16) return;
    RNC_UNROLL
    for (auto& fragment : fragments) {
      RNC_UNROLL
      for (int r = 0; r < 4; ++r) {
        if (r / 2 * 8 + int(threadIdx.x) % 4 * 2 >= depth) fragment[r] = 0;
      }
    }
  }
};

}  // namespace rnc
