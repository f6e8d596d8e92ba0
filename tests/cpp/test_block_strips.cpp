#include <algorithm>
#include <vector>

#include "check.h"
#include "kernels/bottleneck/block_strips.h"

namespace {

using rnc::BlockStrips;

// The boxes of the warpgroup that has most of them.
int64_t most_boxes(const BlockStrips& strips, int32_t warpgroups) {
  std::vector<int64_t> boxes(size_t(warpgroups), 0);
  for (int64_t i = 0; i < strips.count; ++i) {
    BlockStrips::for_each_box(strips.part(int32_t(i)),
                              [&](int32_t) { ++boxes[size_t(i % warpgroups)]; });
  }
  return *std::max_element(boxes.begin(), boxes.end());
}

}  // namespace

RNC_TEST(parts_of_strips_cover_every_pixel_once) {
  for (const int32_t H : {1, 8, 23, 56}) {
    for (const int32_t W : {1, 14, 24, 56}) {
      for (const int32_t warpgroups : {2, 24, 264}) {
        const BlockStrips strips(3, H, W, warpgroups);
        std::vector<int> covered(size_t(3 * H * W), 0);
        for (int64_t i = 0; i < strips.count; ++i) {
          const BlockStrips::Part part = strips.part(int32_t(i));
          EXPECT(part.begin < part.end && part.end <= H);
          for (int32_t row = part.begin; row < part.end; ++row) {
            const int32_t end = std::min(part.column + BlockStrips::kColumns, W);
            for (int32_t column = part.column; column < end; ++column) {
              ++covered[size_t((part.n * H + row) * W + column)];
            }
          }
        }
        EXPECT(std::count(covered.begin(), covered.end(), 1) == 3 * H * W);
      }
    }
  }
}

RNC_TEST(boxes_reduce_what_the_windows_of_a_part_see_and_complete_all_of_them) {
  for (int32_t begin = 0; begin < 3; ++begin) {
    for (int32_t rows = 1; rows < 20; ++rows) {
      const BlockStrips::Part part = {0, 0, begin, begin + rows};
      int32_t boxes = 0, next = begin - 1;
      BlockStrips::for_each_box(part, [&](int32_t row) {
        EXPECT_EQ(row, next);
        next = row + BlockStrips::kBoxRows;
        ++boxes;
      });
      EXPECT_EQ(boxes, BlockStrips::boxes(rows));
      // The last windows that are complete begin one row above the last box's end.
      EXPECT(next - 1 >= part.end);
      EXPECT(next - 1 - BlockStrips::kBoxRows < part.end);
    }
  }
}

RNC_TEST(strips_are_cut_where_that_gives_the_busiest_warpgroup_less_to_do) {
  for (const int32_t images : {1, 2, 8, 32, 256}) {
    constexpr int32_t kSize = 56, kWarpgroups = 264;
    const BlockStrips strips(images, kSize, kSize, kWarpgroups);
    const int64_t uncut = (4 * images + kWarpgroups - 1) / kWarpgroups * BlockStrips::boxes(kSize);
    EXPECT(most_boxes(strips, kWarpgroups) <= uncut);
    EXPECT(images < 256 || strips.part_rows == kSize);
    EXPECT(images > 32 || most_boxes(strips, kWarpgroups) < uncut);
  }
}
