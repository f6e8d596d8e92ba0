// How the image under a tile of a stem lies in shared memory, for one row of the filter. Host-safe.
//
// Pixels are padded with zeros to `slots` channels, 4 or 8, so that the window of an output pixel
// is one run of bytes that starts at a multiple of 16: the window itself is the row that ldmatrix
// loads, and nothing is copied once per tap. Windows of neighbours in an output row lie `step`
// bytes apart and overlap; from the last one of an output row to the first one of the next it is
// `gap` bytes more: a multiple of all banks where there is room, so that 8 windows that ldmatrix
// loads lie in different banks across the end of a row too. A slice of the depth is one run of
// kWindowBytes: 8 taps of 4 slots or 4 of 8.
//
// A tile's output pixels lie in rows of `by_row.divisor`: consecutive ones in rows of the output,
// those of a patch in its own.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/fast_divmod.h"
#include "kernels/conv/conv_problem.h"

namespace rnc {

struct PixelRuns {
  static constexpr int kWindowBytes = 64;
  // Of the runs under each output pixel of a tile: enough for steps of 32 bytes and some rows.
  static constexpr int kBytesPerPixel = 40;
  // Threads load pixels in units of 4 channels.
  static constexpr int kUnitSlots = 4;
  static constexpr int kUnitBytes = 2 * kUnitSlots;  // of 16-bit elements

  int32_t slots, slice_taps;
  int32_t unit_shift;  // log2 of a pixel's units
  int32_t step, gap;
  int32_t run_units;  // of a row's run, without what the gap leaves empty
  int32_t filter_rows, taps, channels;
  FastDivmod by_row;         // output pixels of a row
  FastDivmod by_row_units;   // units from one row's run to the next one's
  FastDivmod by_row_slices;  // slices of a filter row

  PixelRuns(const Conv2dProblem& p, int32_t tile_pixels, int32_t row_pixels)
      : slots(slots_of(p)),
        slice_taps(kWindowBytes / 2 / slots),
        unit_shift(slots == kUnitSlots ? 0 : 1),
        step(step_of(p)),
        gap(fits(step, kBankBytes, tile_pixels, row_pixels) ? kBankBytes : least_gap(step)),
        run_units((row_pixels * step + least_gap(step)) / kUnitBytes),
        filter_rows(p.R),
        taps(p.S),
        channels(p.C),
        by_row(row_pixels),
        by_row_units((row_pixels * step + gap) / kUnitBytes),
        by_row_slices((p.S + slice_taps - 1) / slice_taps) {}

  // Whether the runs of every tile fit.
  static bool can_hold(const Conv2dProblem& p, int32_t tile_pixels, int32_t row_pixels) {
    if (p.groups != 1 || p.dilation_w != 1 || p.C > 2 * kUnitSlots) return false;
    if (int64_t(p.stride_w) * slots_of(p) * 2 > kBytesPerPixel) return false;
    const int32_t step = step_of(p);
    return fits(step, least_gap(step), tile_pixels, row_pixels) &&
           int64_t(row_pixels) * step < INT32_MAX - kBankBytes;
  }

  // A window that starts at any pixel has to start at a multiple of 16 bytes.
  static int32_t slots_of(const Conv2dProblem& p) {
    return p.C <= kUnitSlots && p.stride_w % 2 == 0 ? kUnitSlots : 2 * kUnitSlots;
  }
  RNC_HOST_DEVICE int32_t slices() const { return filter_rows * int32_t(by_row_slices.divisor); }

  // The pixel or tap of a unit, and its first channel.
  RNC_HOST_DEVICE int32_t pixel_of(int32_t unit) const { return unit >> unit_shift; }
  RNC_HOST_DEVICE int32_t channel_of(int32_t unit) const {
    return (unit & ((1 << unit_shift) - 1)) * kUnitSlots;
  }

  // The filter row and the first tap of a slice.
  struct Slice {
    int32_t r, s;
  };
  RNC_HOST_DEVICE Slice slice(int32_t index) const {
    int32_t run;
    const int32_t r = by_row_slices.divide(index, run);
    return {r, run * slice_taps};
  }

  // Where the window of output pixel q + i starts in the runs of a tile whose first one is q of its
  // row.
  RNC_HOST_DEVICE int32_t window_offset(int32_t q, int32_t i) const {
    return i * step + by_row.divide(q + i) * gap;
  }

 private:
  static constexpr int kBankBytes = 128;  // of all banks

  static int32_t step_of(const Conv2dProblem& p) { return p.stride_w * slots_of(p) * 2; }
  static int32_t least_gap(int32_t step) { return std::max(kWindowBytes - step, 0); }
  static bool fits(int32_t step, int32_t gap, int32_t tile_pixels, int32_t row_pixels) {
    // A tile starts anywhere in a row.
    const int64_t gaps = (int64_t(tile_pixels) + row_pixels - 2) / row_pixels;
    return int64_t(tile_pixels - 1) * step + gaps * gap + kWindowBytes <=
           int64_t(tile_pixels) * kBytesPerPixel;
  }
};

}  // namespace rnc
