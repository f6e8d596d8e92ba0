// How warpgroups share the images of a whole bottleneck: each marches down a strip of 14 columns, 4
// rows at a time, with the columns beside it that only the 3x3 sees. Host-safe.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/fast_divmod.h"
#include "ptx/keywords.h"

namespace rnc {

struct BlockStrips {
  // A box of pixels, a warpgroup's 64 rows: what is reduced at a time.
  static constexpr int kBoxRows = 4, kBoxColumns = 16;
  static constexpr int kBoxPixels = kBoxRows * kBoxColumns;
  static constexpr int kTaps = 3;  // along each axis
  static constexpr int kColumns = kBoxColumns - (kTaps - 1);
  // Rows of the box before that the windows of a box reach back to, and all that they see: the
  // pixels of the last row's last two windows lie behind it, and nobody wants those windows.
  static constexpr int kKeptRows = kTaps - 1;
  static constexpr int kSeenPixels = (kKeptRows + kBoxRows) * kBoxColumns + kTaps - 1;

  int32_t H, W;
  int32_t part_rows;  // strips are cut into parts, so that all warpgroups have some
  FastDivmod by_strips, by_parts;
  int64_t count;  // of parts, of all images

  // Cut so that the warpgroup with the most boxes has as few as can be; among equals the longest
  // parts, which reach back least.
  BlockStrips(int32_t N, int32_t H, int32_t W, int32_t warpgroups)
      : H(H), W(W), part_rows(H), by_strips(ceil_div(W, kColumns)) {
    const auto parts_of = [&](int32_t rows) {
      return int64_t(N) * by_strips.divisor * ceil_div(H, rows);
    };
    const auto cost = [&](int32_t rows) {
      return (parts_of(rows) + warpgroups - 1) / warpgroups * boxes(rows);
    };
    for (int32_t parts = 2; parts <= std::min(H, warpgroups); ++parts) {
      const int32_t rows = ceil_div(H, parts);
      if (cost(rows) < cost(part_rows)) part_rows = rows;
    }
    by_parts = FastDivmod(ceil_div(H, part_rows));
    count = parts_of(part_rows);
  }

  struct Part {
    int32_t n, column;
    int32_t begin, end;  // rows
  };
  // Part i of [N, parts, strips].
  RNC_HOST_DEVICE Part part(int32_t i) const {
    int32_t strip, part;
    const int32_t n = by_parts.divide(by_strips.divide(i, strip), part);
    const int32_t begin = part * part_rows, end = begin + part_rows;
    return {n, strip * kColumns, begin, end < H ? end : H};
  }

  // Calls fn(row) for the first row of each box that is reduced for the part; the windows that a
  // box completes begin one row above it.
  template <class Fn>
  RNC_HOST_DEVICE static void for_each_box(const Part& part, Fn&& fn) {
    for (int32_t row = part.begin - 1; row <= part.end; row += kBoxRows) fn(row);
  }
  static int32_t boxes(int32_t rows) { return ceil_div(rows + kTaps - 1, kBoxRows); }

 private:
  static int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }
};

}  // namespace rnc
