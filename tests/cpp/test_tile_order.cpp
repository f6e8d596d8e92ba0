// The order in which blocks take the tiles of a GEMM: neighbours share rows. A model of what each
// wave of blocks must read says that groups of rows would not read noticeably less.
#include <algorithm>
#include <set>
#include <utility>

#include "check.h"
#include "launch/plan.h"

namespace {

using rnc::Conv2dProblem;
using rnc::ConvOp;
using rnc::ConvPlan;
using rnc::DType;

constexpr int64_t kWave = 264;  // two blocks on each of 132 multiprocessors
constexpr int64_t kBytes = 2;

struct Layer {
  int32_t size, c, k, kernel, stride;
};

// ResNet-50 at 224 x 224, then WRN-28-10 at 32 x 32, all with 256 images.
constexpr Layer kLayers[] = {
    {56, 64, 64, 1, 1},    {56, 64, 64, 3, 1},    {56, 64, 256, 1, 1},   {56, 256, 64, 1, 1},
    {56, 256, 128, 1, 1},  {56, 128, 128, 3, 2},  {28, 128, 512, 1, 1},  {56, 256, 512, 1, 2},
    {28, 512, 128, 1, 1},  {28, 128, 128, 3, 1},  {28, 512, 256, 1, 1},  {28, 256, 256, 3, 2},
    {14, 256, 1024, 1, 1}, {28, 512, 1024, 1, 2}, {14, 1024, 256, 1, 1}, {14, 256, 256, 3, 1},
    {14, 1024, 512, 1, 1}, {14, 512, 512, 3, 2},  {7, 512, 2048, 1, 1},  {14, 1024, 2048, 1, 2},
    {7, 2048, 512, 1, 1},  {7, 512, 512, 3, 1},   {32, 16, 160, 3, 1},   {32, 160, 160, 3, 1},
    {32, 160, 320, 3, 2},  {16, 320, 320, 3, 1},  {16, 320, 640, 3, 2},  {8, 640, 640, 3, 1},
};

Conv2dProblem problem(const Layer& layer) {
  const int32_t pad = layer.kernel / 2;
  const int32_t out = Conv2dProblem::output_size(layer.size, pad, 1, layer.kernel, layer.stride);
  return {.N = 256,
          .H = layer.size,
          .W = layer.size,
          .C = layer.c,
          .K = layer.k,
          .R = layer.kernel,
          .S = layer.kernel,
          .P = out,
          .Q = out,
          .pad_h = pad,
          .pad_w = pad,
          .stride_h = layer.stride,
          .stride_w = layer.stride,
          .dilation_h = 1,
          .dilation_w = 1,
          .groups = 1};
}

// One pass: its tiles, and the bytes of a row tile of A and of a column tile of B, both of one part
// of the reduction. `distinct_columns`: wgrad's columns of different taps see the same pixels.
struct Tiles {
  int64_t rows, columns, parts, distinct_columns;
  double row_bytes, column_bytes;

  Tiles(ConvOp op, const Conv2dProblem& p) {
    const ConvPlan plan = rnc::plan_conv(op, p, DType::kBFloat16);
    columns = plan.column_tiles;
    rows = plan.grid[0] / columns;
    parts = plan.splits * plan.grid[2];
    const bool is_wgrad = op == ConvOp::kWgrad;
    distinct_columns = is_wgrad ? std::max<int64_t>(p.C / plan.tile_n, 1) : columns;
    const int64_t sampled = p.is_pointwise() ? int64_t(p.stride_h) * p.stride_w : 1;
    const double x = double(p.x_size()) / double(sampled);
    const double a = op == ConvOp::kFprop ? x : double(p.y_size());
    const double b = is_wgrad ? x : double(p.weight_size());
    row_bytes = kBytes * a / double(rows * parts);
    column_bytes = kBytes * b / double(distinct_columns * (is_wgrad ? parts : plan.grid[2]));
  }

  // Bytes that all waves read, each what its blocks need, once. Blocks run along the columns of
  // `group` rows at a time; in a group, rows first.
  double traffic(int64_t group) const {
    double bytes = 0;
    std::set<std::pair<int64_t, int64_t>> wave_rows, wave_columns;
    const auto end_wave = [&] {
      bytes += double(wave_rows.size()) * row_bytes + double(wave_columns.size()) * column_bytes;
      wave_rows.clear();
      wave_columns.clear();
    };
    int64_t blocks = 0;
    for (int64_t part = 0; part < parts; ++part) {
      for (int64_t first = 0; first < rows; first += group) {
        const int64_t height = std::min(group, rows - first);
        for (int64_t i = 0; i < height * columns; ++i) {
          wave_rows.insert({part, first + i % height});
          wave_columns.insert({part, i / height % distinct_columns});
          if (++blocks % kWave == 0) end_wave();
        }
      }
    }
    end_wave();
    return bytes;
  }
};

}  // namespace

RNC_TEST(no_order_of_tiles_reads_noticeably_less_than_neighbours_in_a_row) {
  for (const Layer& layer : kLayers) {
    for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
      const Tiles tiles(op, problem(layer));
      const double now = tiles.traffic(1);
      for (const int64_t group : {2, 4, 8, 16, 32, 64}) {
        EXPECT(tiles.traffic(group) > 0.95 * now);
      }
    }
  }
}

RNC_TEST(the_model_sees_an_order_that_reads_less) {
  // 64 x 264 tiles: along a row, each wave reads all columns; in groups of 16, a near-square patch.
  Tiles tiles(ConvOp::kFprop, problem(kLayers[0]));
  tiles.rows = 64;
  tiles.columns = tiles.distinct_columns = 264;
  tiles.parts = 1;
  tiles.row_bytes = tiles.column_bytes = 1;
  EXPECT_EQ(tiles.traffic(1), 64.0 * (1 + 264));
  EXPECT(tiles.traffic(16) < 64.0 * 40);
}
