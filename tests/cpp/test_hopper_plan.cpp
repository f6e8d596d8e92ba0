#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/conv/sm90/box_axis.h"
#include "kernels/conv/sm90/halo_square.h"
#include "launch/plan.h"
#include "plan_problems.h"

namespace {

using rnc::Conv2dProblem;
using rnc::ConvOp;
using rnc::ConvPath;
using rnc::ConvPlan;
using rnc::DType;
using rnc::Generation;
using rnc::test::in_groups;
using rnc::test::square;

constexpr ConvOp kOps[] = {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad};

Conv2dProblem dilated(Conv2dProblem p, int32_t dilation) {
  p.dilation_h = p.dilation_w = dilation;
  p.pad_h = p.pad_w = p.R / 2 * dilation;
  return p;
}

}  // namespace

RNC_TEST(hopper_s_kernels_are_planned_for_9_0_and_for_no_other_gpu) {
  const Conv2dProblem p = square(4, 14, 64, 64, 3, 1);
  for (const ConvOp op : kOps) {
    for (const int32_t capability : {80, 86, 89, 90, 100, 120}) {
      const ConvPlan plan =
          rnc::plan_conv(op, p, DType::kBFloat16, {.device = {.capability = capability}});
      const bool is_hopper = capability == 90;
      EXPECT(plan.generation == (is_hopper ? Generation::kSm90 : Generation::kSm80));
      EXPECT(std::strstr(plan.kernel, is_hopper ? "_sm90_" : "_sm80_") != nullptr);
    }
    EXPECT(rnc::plan_conv(op, p, DType::kBFloat16, {.newest = Generation::kSm80}).generation ==
           Generation::kSm80);
  }
}

RNC_TEST(windows_and_pixels_take_hopper_s_kernels_where_tma_can_bring_them) {
  for (const ConvOp op : kOps) {
    for (const Conv2dProblem& p :
         {square(4, 14, 64, 64, 3, 1), square(4, 14, 64, 128, 3, 2), square(2, 14, 64, 64, 5, 1),
          square(1, 14, 128, 64, 7, 2), dilated(square(2, 28, 64, 64, 3, 1), 12),
          square(2, 14, 256, 64, 1, 1), square(2, 14, 64, 120, 1, 1),
          in_groups(square(2, 14, 256, 256, 3, 1), 4)}) {
      const ConvPlan plan = rnc::plan_conv(op, p, DType::kFloat16);
      EXPECT(plan.generation == Generation::kSm90);
      EXPECT(plan.path == (p.R == 1 ? ConvPath::kGemm : ConvPath::kIm2col));
      EXPECT(std::strstr(plan.why, "TMA") != nullptr);
      EXPECT(plan.error == nullptr);
      EXPECT_EQ(plan.tile_k, 64);
      EXPECT_EQ(plan.depth_per_split % 64, 0);
    }
  }
}

RNC_TEST(what_tma_cannot_bring_takes_mma_sync_and_the_plan_says_why) {
  struct Refused {
    ConvOp op;
    Conv2dProblem p;
    const char* why;
  };
  const Refused refused[] = {
      {ConvOp::kFprop, in_groups(square(2, 14, 192, 192, 3, 1), 2), "share boxes of TMA"},
      {ConvOp::kDgrad, in_groups(square(2, 14, 64, 192, 3, 1), 2), "share boxes of TMA"},
      {ConvOp::kWgrad, square(2, 14, 120, 64, 3, 1), "between taps"},
      {ConvOp::kFprop, square(2, 14, 72, 64, 3, 1), "too few channels"},
      {ConvOp::kDgrad, square(2, 14, 64, 40, 1, 1), "too few channels"},
      {ConvOp::kWgrad, square(2, 14, 40, 64, 1, 1), "too few channels"},
      // Strides have 3 bits; corners and offsets of a map of rank 4 have 8.
      {ConvOp::kFprop, square(2, 32, 64, 64, 3, 9), "beyond what TMA's windows describe"},
      {ConvOp::kWgrad, dilated(square(1, 8, 64, 64, 3, 1), 129), "beyond what TMA's windows"},
      {ConvOp::kDgrad, dilated(square(1, 8, 64, 64, 3, 1), 129), "beyond what TMA's windows"},
  };
  for (const Refused& one : refused) {
    const ConvPlan plan = rnc::plan_conv(one.op, one.p, DType::kBFloat16);
    EXPECT(plan.generation == Generation::kSm80);
    EXPECT(plan.error == nullptr);
    EXPECT(std::strstr(plan.why, one.why) != nullptr);
    EXPECT(std::strstr(plan.why, "mma.sync") != nullptr);
  }
  // A strided dgrad is a GEMM for each class of pixels, none of which is strided.
  EXPECT(rnc::plan_conv(ConvOp::kDgrad, square(2, 32, 64, 64, 3, 9), DType::kBFloat16).generation ==
         Generation::kSm90);
}

RNC_TEST(tf32_takes_hopper_s_kernels_where_operands_lie_along_the_depth) {
  const rnc::PlanLimits limits{.allow_tf32 = true};
  for (const Conv2dProblem& p : {square(4, 14, 64, 64, 3, 1), square(4, 14, 96, 35, 1, 1),
                                 in_groups(square(2, 14, 64, 64, 3, 1), 2)}) {
    const ConvPlan plan = rnc::plan_conv(ConvOp::kFprop, p, DType::kFloat32, limits);
    EXPECT(plan.generation == Generation::kSm90);
    EXPECT(plan.path == (p.R == 1 ? ConvPath::kGemm : ConvPath::kIm2col));  // no halo
    EXPECT(std::strstr(plan.why, "TF32 is allowed") && std::strstr(plan.why, "TMA"));
    EXPECT_EQ(plan.tile_k, 32);
    EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kFloat32).generation == Generation::kSimt);
  }
  for (const ConvOp op : {ConvOp::kDgrad, ConvOp::kWgrad}) {
    const ConvPlan plan = rnc::plan_conv(op, square(4, 14, 64, 64, 3, 1), DType::kFloat32, limits);
    EXPECT(plan.generation == Generation::kSm80);
    EXPECT(std::strstr(plan.why, "wgmma transposes no float32") != nullptr);
  }
  // As many channels as 16-bit boxes would lack.
  EXPECT(rnc::plan_conv(ConvOp::kFprop, square(4, 14, 28, 64, 3, 1), DType::kFloat32, limits)
             .generation == Generation::kSm90);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, square(4, 14, 20, 64, 3, 1), DType::kFloat32, limits)
             .generation == Generation::kSm80);
  // Of any width.
  const auto columns = [&](int32_t filters) {
    return rnc::plan_conv(ConvOp::kFprop, square(32, 56, 64, filters, 3, 1), DType::kFloat32,
                          limits)
        .tile_n;
  };
  EXPECT_EQ(columns(64), 64);
  EXPECT_EQ(columns(256), 256);
}

RNC_TEST(hopper_s_tiles_are_wide_only_where_registers_and_multiprocessors_allow) {
  const auto fprop = [](int32_t images, int32_t filters, const rnc::PlanLimits& limits = {}) {
    return rnc::plan_conv(ConvOp::kFprop, square(images, 56, 64, filters, 3, 1), DType::kBFloat16,
                          limits);
  };
  EXPECT_EQ(fprop(32, 64).tile_n, 64);
  EXPECT_EQ(fprop(32, 128).tile_n, 128);
  EXPECT_EQ(fprop(32, 256).tile_n, 256);
  EXPECT_EQ(fprop(32, 512).tile_n, 256);
  EXPECT_EQ(fprop(32, 256, {.narrow = true}).tile_n, 64);
  // What is normalised in registers leaves room for them, what is changed in shared memory does
  // not.
  EXPECT_EQ(fprop(32, 256, {.normalises = true}).tile_n, 256);
  EXPECT_EQ(rnc::plan_conv(ConvOp::kDgrad, square(32, 56, 256, 256, 3, 1), DType::kBFloat16,
                           {.narrow = true})
                .tile_n,
            128);
  EXPECT_EQ(fprop(1, 256).tile_n, 128);
  // Two blocks on a multiprocessor pay where there is little to multiply for what is stored.
  const auto expand = [](int32_t channels) {
    return rnc::plan_conv(ConvOp::kFprop, square(256, 56, channels, 256, 1, 1), DType::kBFloat16);
  };
  EXPECT_EQ(expand(64).tile_n, 64);
  EXPECT_EQ(expand(256).tile_n, 256);
  // So do dgrad's, without sums.
  const auto reduce_dgrad = [](bool takes_sums) {
    return rnc::plan_conv(ConvOp::kDgrad, square(256, 56, 256, 64, 1, 1), DType::kBFloat16,
                          {.takes_sums = takes_sums});
  };
  EXPECT_EQ(reduce_dgrad(false).tile_n, 64);
  EXPECT_EQ(reduce_dgrad(true).tile_n, 256);
  const auto wgrad_tile = [](int32_t filters) {
    const ConvPlan plan =
        rnc::plan_conv(ConvOp::kWgrad, square(8, 56, 64, filters, 3, 1), DType::kBFloat16);
    return plan.tile_m * 1000 + plan.tile_n;
  };
  EXPECT_EQ(wgrad_tile(64), 64256);
  EXPECT_EQ(wgrad_tile(72), 128128);
}

RNC_TEST(windows_that_share_their_pixels_say_so_and_say_how_many_rows_they_take) {
  const Conv2dProblem p = square(4, 56, 64, 64, 3, 1);
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad}) {
    const ConvPlan plan = rnc::plan_conv(op, p, DType::kBFloat16);
    EXPECT(plan.generation == Generation::kSm90 && plan.path == ConvPath::kHalo);
    EXPECT(std::strstr(plan.kernel, "_sm90_halo") != nullptr);
    EXPECT_EQ(plan.tile_m, 256);
    EXPECT_EQ(plan.tile_n, 64);
    EXPECT_EQ(plan.grid[0], 4 * 49 / 4);
    // Ampere has no such kernels, and sums of other shapes know nothing of squares.
    EXPECT(rnc::plan_conv(op, p, DType::kBFloat16, {.device = {.capability = 80}}).path ==
           ConvPath::kIm2col);
  }
  // An operand of two tensors takes registers of a fourth warpgroup; two sets of accumulators too.
  EXPECT_EQ(rnc::plan_conv(ConvOp::kDgrad, p, DType::kBFloat16, {.narrow = true}).tile_m, 192);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kBFloat16, {.narrow = true}).path ==
         ConvPath::kIm2col);
  EXPECT(rnc::plan_conv(ConvOp::kWgrad, p, DType::kBFloat16).path == ConvPath::kIm2col);
}

RNC_TEST(squares_have_every_pixel_of_an_image_once) {
  constexpr int kSide = rnc::HaloSquare::kSide;
  constexpr int32_t kImages = 3, kHeight = 2 * kSide, kWidth = 5 * kSide;
  const rnc::HaloRows places{rnc::FastDivmod(kWidth / kSide), rnc::FastDivmod(kHeight / kSide)};
  std::vector<int> seen(kImages * kHeight * kWidth);
  for (int32_t m = 0; m < int32_t(seen.size()); ++m) {
    const int64_t row = places.row(m);
    EXPECT(row >= 0 && row < int64_t(seen.size()) && seen[row]++ == 0);
    const rnc::HaloRows::Pixel at = places.pixel(m);
    const rnc::HaloRows::Pixel first = places.pixel(m / rnc::HaloSquare::kPixels * 64);
    EXPECT(at.n == first.n && first.h % kSide == 0 && first.w % kSide == 0);
    EXPECT_EQ((at.h - first.h) * kSide + at.w - first.w, m % 64);
  }
}

RNC_TEST(a_box_holds_what_the_windows_of_a_square_see) {
  for (const int32_t pad : {0, 1, 2, 5}) {
    const int32_t size = 16 + 2 - 2 * pad;
    const rnc::WindowAxis fprop = rnc::fprop_axis(size, 16, 1, pad, 3, 1);
    const rnc::WindowAxis dgrad = rnc::gradient_axis(0, 16, 16 + 2 * pad - 2, 1, pad, 3, 1).window;
    for (const rnc::WindowAxis& window : {fprop, dgrad}) {
      EXPECT(rnc::fits_halo(window));
      const rnc::BoxAxis box = rnc::box_axis(window);
      for (int32_t i = 0; i < window.positions; ++i) {
        const int32_t first = box.base(i / 8 * 8);
        for (int32_t tap = 0; tap < window.taps; ++tap) {
          const int32_t seen = i + window.origin + tap * window.tap_shift;
          EXPECT_EQ(seen - first, i % 8 + box.offset(tap));
          EXPECT(seen - first >= 0 && seen - first < rnc::HaloSquare::kBoxRows);
        }
      }
    }
  }
  EXPECT(!rnc::fits_halo(rnc::fprop_axis(16, 8, 2, 1, 3, 1)));
  EXPECT(!rnc::fits_halo(rnc::fprop_axis(16, 16, 1, 2, 3, 2)));
  EXPECT(!rnc::fits_halo(rnc::fprop_axis(16, 16, 1, 2, 5, 1)));
  EXPECT(!rnc::fits_halo(rnc::fprop_axis(15, 15, 1, 1, 3, 1)));
}

RNC_TEST(a_box_of_tma_lies_where_the_window_lies) {
  const auto check = [](const rnc::WindowAxis& window) {
    const rnc::BoxAxis box = rnc::box_axis(window);
    for (int32_t i = 0; i < window.positions; ++i) {
      for (int32_t tap = 0; tap < window.taps; ++tap) {
        const int32_t wanted = i * window.stride + window.origin + tap * window.tap_shift;
        EXPECT_EQ(box.base(i) + box.offset(tap), wanted);
        EXPECT(box.offset(tap) >= 0);  // TMA adds it to a base position as an unsigned number
      }
    }
    EXPECT_EQ(window.size - 1 + box.upper(window.positions), box.base(window.positions - 1));
  };
  for (const int32_t taps : {1, 2, 3, 5, 7}) {
    for (const int32_t stride : {1, 2, 3}) {
      for (const int32_t dilation : {1, 2, 3}) {
        for (const int32_t pad : {0, 1, 4}) {
          constexpr int32_t kSize = 23;
          const int32_t out = Conv2dProblem::output_size(kSize, pad, dilation, taps, stride);
          check(rnc::fprop_axis(kSize, out, stride, pad, taps, dilation));
          for (int32_t residue = 0; residue < stride; ++residue) {
            check(rnc::gradient_axis(residue, kSize, out, stride, pad, taps, dilation).window);
          }
        }
      }
    }
  }
}

RNC_TEST(an_expand_and_the_next_reduce_share_a_kernel_where_all_of_a_tile_has_room) {
  for (const int32_t channels : {64, 128, 192, 256}) {
    for (const int32_t reduced : {64, 128, 256}) {
      const Conv2dProblem expand = square(4, 14, channels, 4 * channels, 1, 1);
      const ConvPlan plan = rnc::plan_expand_reduce(expand, reduced, DType::kFloat16);
      EXPECT(plan.error == nullptr);
      EXPECT(plan.generation == Generation::kSm90);
      EXPECT_EQ(plan.tile_n, reduced);
      EXPECT_EQ(plan.grid[0], (4 * 14 * 14 + 127) / 128);
      const int64_t rows = 4 * 14 * 14;
      EXPECT_EQ(plan.macs, rows * 4 * channels * (channels + reduced));
    }
  }
}

RNC_TEST(an_expand_and_a_reduce_that_cannot_share_a_kernel_are_told_why) {
  struct Refused {
    Conv2dProblem expand;
    int32_t reduced;
    const char* why;
    DType dtype = DType::kBFloat16;
    rnc::PlanLimits limits = {};
  };
  const Conv2dProblem p = square(2, 14, 64, 256, 1, 1);
  const Refused refused[] = {
      {p, 64, "compute capability 9.0", DType::kBFloat16, {.device = {.capability = 80}}},
      {p, 64, "compute capability 9.0", DType::kBFloat16, {.device = {.capability = 100}}},
      {p, 64, "bfloat16 or float16", DType::kFloat32},
      {p, 64, "multiples of 16 bytes", DType::kBFloat16, {.aligned = false}},
      {square(2, 14, 64, 256, 1, 2), 64, "without padding, stride or groups"},
      {square(2, 14, 64, 256, 3, 1), 64, "1x1 filters"},
      {in_groups(square(2, 14, 128, 256, 1, 1), 2), 64, "without padding, stride or groups"},
      {square(2, 14, 72, 256, 1, 1), 64, "multiples of 64"},
      {square(2, 14, 64, 264, 1, 1), 64, "multiples of 64"},
      {square(2, 14, 320, 256, 1, 1), 64, "at most 256 channels to expand"},
      {p, 192, "64, 128 or 256 filters that reduce"},
      {p, 512, "64, 128 or 256 filters that reduce"},
      {square(32768, 256, 64, 64, 1, 1), 64, "fewer than 2^31 pixels"},
  };
  for (const Refused& one : refused) {
    const ConvPlan plan = rnc::plan_expand_reduce(one.expand, one.reduced, one.dtype, one.limits);
    EXPECT(plan.error != nullptr);
    EXPECT(plan.error && std::strstr(plan.error, one.why) != nullptr);
  }
}

RNC_TEST(a_bottleneck_is_one_kernel_where_its_filters_stay_in_shared_memory) {
  for (const int32_t size : {24, 40, 56, 64, 112}) {
    const Conv2dProblem convolution = square(4, size, 64, 64, 3, 1);
    const ConvPlan plan = rnc::plan_bottleneck_block(convolution, 256, DType::kBFloat16);
    EXPECT(plan.error == nullptr);
    EXPECT(plan.generation == Generation::kSm90);
    EXPECT(plan.path == ConvPath::kHalo);
    const int64_t pixels = int64_t(4) * size * size, filters = 2 * 256 * 64 + 9 * 64 * 64;
    EXPECT_EQ(plan.macs, pixels * filters);
    EXPECT_EQ(plan.bytes, 2 * (2 * 256 * pixels + filters));
  }
}

RNC_TEST(a_bottleneck_that_cannot_be_one_kernel_is_told_why) {
  struct Refused {
    Conv2dProblem convolution;
    int32_t channels;
    const char* why;
    DType dtype = DType::kBFloat16;
    rnc::PlanLimits limits = {};
  };
  const Conv2dProblem p = square(2, 56, 64, 64, 3, 1);
  const Refused refused[] = {
      {p, 256, "compute capability 9.0", DType::kBFloat16, {.device = {.capability = 80}}},
      {p, 256, "compute capability 9.0", DType::kBFloat16, {.device = {.capability = 100}}},
      {p, 256, "bfloat16 or float16", DType::kFloat32},
      {p, 256, "multiples of 16 bytes", DType::kBFloat16, {.aligned = false}},
      {p, 64, "256 channels, reduced to 64"},
      {square(2, 56, 128, 128, 3, 1), 512, "256 channels, reduced to 64"},
      {square(2, 56, 64, 64, 3, 2), 256, "a 3x3 that conv_fprop would compute from halos"},
      {square(2, 28, 64, 64, 3, 1), 256, "a 3x3 that conv_fprop would compute from halos"},
      {square(2, 16, 64, 64, 3, 1), 256, "a width that strips of 14 columns fill"},
      {square(1 << 15, 256, 64, 64, 3, 1), 256, "fewer than 2^31 pixels"},
  };
  for (const Refused& one : refused) {
    const ConvPlan plan =
        rnc::plan_bottleneck_block(one.convolution, one.channels, one.dtype, one.limits);
    EXPECT(plan.error != nullptr);
    EXPECT(plan.error && std::strstr(plan.error, one.why) != nullptr);
  }
}
