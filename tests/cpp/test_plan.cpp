#include <climits>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/conv/pool_patches.h"
#include "kernels/conv/sm80/pixel_runs.h"
#include "kernels/conv/window.h"
#include "launch/kernel_library.h"
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

}  // namespace

RNC_TEST(a_plan_covers_the_output_and_the_reduction) {
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    for (const Conv2dProblem& p : {square(1, 1, 1, 1, 1, 1), square(8, 56, 64, 64, 3, 1),
                                   square(3, 7, 33, 65, 3, 2), square(2, 14, 1024, 256, 1, 1)}) {
      const ConvPlan plan = rnc::plan_conv(op, p, DType::kFloat32);
      EXPECT(plan.error == nullptr);
      EXPECT(plan.kernel != nullptr && plan.why != nullptr);
      EXPECT(plan.grid[0] / plan.column_tiles * plan.tile_m * plan.grid[2] >= p.gemm_m(op));
      EXPECT(plan.column_tiles * plan.tile_n >= p.gemm_n(op));
      EXPECT_EQ(plan.grid[0] % plan.column_tiles, 0);
      EXPECT_EQ(plan.grid[1], int64_t(p.groups) * plan.splits);
      EXPECT(int64_t(plan.depth_per_split) * plan.splits >= p.gemm_k(op));
    }
  }
}

RNC_TEST(only_wgrad_splits_its_reduction) {
  const Conv2dProblem p = square(32, 56, 64, 64, 3, 1);
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    EXPECT_EQ(rnc::plan_conv(ConvOp::kFprop, p, dtype).splits, 1);
    EXPECT_EQ(rnc::plan_conv(ConvOp::kDgrad, p, dtype).splits, 1);
    EXPECT(rnc::plan_conv(ConvOp::kWgrad, p, dtype).splits > 1);
  }
}

RNC_TEST(tiles_depend_on_the_device_but_the_parts_of_a_reduction_on_its_generation_alone) {
  const Conv2dProblem p = square(32, 28, 256, 256, 3, 1);
  struct Expected {
    int32_t capability, columns, columns_of_wide;
  };
  for (const Expected& expected : {Expected{80, 128, 64}, Expected{90, 256, 128}}) {
    const int32_t capability = expected.capability;
    // The second device is so large that narrower tiles give more multiprocessors work.
    const rnc::PlanDevice standard{.capability = capability}, wide{1000, capability},
        small{40, capability};
    const auto plan = [&](ConvOp op, const rnc::PlanDevice& device) {
      return rnc::plan_conv(op, p, DType::kBFloat16, {.device = device});
    };
    EXPECT_EQ(plan(ConvOp::kFprop, standard).tile_n, expected.columns);
    EXPECT_EQ(plan(ConvOp::kFprop, wide).tile_n, expected.columns_of_wide);
    EXPECT_EQ(plan(ConvOp::kWgrad, wide).tile_n, 128);
    const int32_t splits = plan(ConvOp::kWgrad, standard).splits;
    EXPECT(splits > 1);
    EXPECT_EQ(plan(ConvOp::kWgrad, wide).splits, splits);
    EXPECT_EQ(plan(ConvOp::kWgrad, small).splits, splits);
  }
}

RNC_TEST(gpus_older_than_8_0_take_simt_kernels_for_every_problem) {
  const rnc::PlanDevice turing{40, 75}, ampere{108, 80};
  const Conv2dProblem dense = square(4, 14, 64, 64, 3, 1), stem = square(4, 32, 3, 64, 7, 2);
  const Conv2dProblem problems[] = {dense,
                                    stem,
                                    square(4, 14, 64, 64, 1, 1),
                                    square(4, 14, 64, 128, 1, 2),
                                    square(4, 14, 35, 64, 3, 1),
                                    in_groups(dense, 16),
                                    in_groups(dense, 4),
                                    in_groups(dense, 64)};
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
      for (const Conv2dProblem& p : problems) {
        for (const rnc::PlanLimits& asked : {rnc::PlanLimits{.device = turing},
                                             {.aligned = false, .device = turing},
                                             {.narrow = true, .device = turing},
                                             {.normalises = true, .device = turing},
                                             {.allow_tf32 = true, .device = turing}}) {
          const ConvPlan plan = rnc::plan_conv(op, p, dtype, asked);
          EXPECT(plan.error == nullptr);
          EXPECT(plan.generation == Generation::kSimt);
          EXPECT(std::strstr(plan.kernel, "_simt_") != nullptr);
          // Groups are never packed.
          EXPECT_EQ(plan.groups, p.is_depthwise() ? 1 : p.groups);
          EXPECT(int64_t(plan.depth_per_split) * plan.splits >= p.gemm_k(op));
        }
      }
    }
  }
  EXPECT(std::strstr(
      rnc::plan_conv(ConvOp::kFprop, dense, DType::kBFloat16, {.device = turing}).why, "8.0"));
  EXPECT(rnc::plan_conv(ConvOp::kFprop, dense, DType::kBFloat16, {.device = ampere}).generation ==
         Generation::kSm80);
}

RNC_TEST(splits_that_are_given_cover_the_reduction) {
  const Conv2dProblem p = square(32, 56, 64, 64, 3, 1);
  const ConvPlan plan = rnc::plan_conv(ConvOp::kWgrad, p, DType::kBFloat16, {.splits = 3});
  EXPECT_EQ(plan.splits, 3);
  EXPECT_EQ(plan.grid[1], 3);
  EXPECT(int64_t(plan.depth_per_split) * 3 >= p.gemm_k(ConvOp::kWgrad));
}

RNC_TEST(a_product_over_pixels_has_parts_of_at_most_4096_of_them_on_every_device) {
  const auto check = [](const Conv2dProblem& p, DType dtype, bool symmetric, int32_t capability) {
    const auto plan_on = [&](const rnc::PlanDevice& device) {
      return rnc::plan_pixel_product(p, dtype, symmetric, {.device = device});
    };
    const ConvPlan plan = plan_on({.capability = capability});
    EXPECT(plan.error == nullptr);
    EXPECT(plan.depth_per_split <= rnc::kMaxProductDepth);
    EXPECT(int64_t(plan.depth_per_split) * plan.splits >= p.output_pixels());
    EXPECT(plan.grid[0] / plan.column_tiles * plan.tile_m >= p.K);
    EXPECT(plan.column_tiles * plan.tile_n >= p.C);
    EXPECT_EQ(plan.grid[1], plan.splits);
    // There is a diagonal to leave tiles out below.
    EXPECT(!symmetric || plan.tile_m == plan.tile_n || plan.grid[0] == 1);
    EXPECT_EQ(plan_on({8, capability}).splits, plan.splits);
  };
  for (const int32_t capability : {80, 90}) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (const bool symmetric : {false, true}) {
        for (const int32_t size : {1, 7, 56, 112}) {
          for (const int32_t c : {8, 64, 72, 512}) {
            const int32_t k = symmetric ? c : 4 * c;
            check(square(64, size, c, k, 1, 1), dtype, symmetric, capability);
          }
        }
      }
    }
  }
}

RNC_TEST(tensor_cores_take_16_bit_problems) {
  const Conv2dProblem p = square(4, 14, 64, 64, 3, 1);
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    const auto generation = [&](DType dtype, int32_t capability) {
      return rnc::plan_conv(op, p, dtype, {.device = {.capability = capability}}).generation;
    };
    for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
      EXPECT(generation(dtype, 80) == Generation::kSm80);
      EXPECT(generation(dtype, 90) == Generation::kSm90);
    }
    EXPECT(generation(DType::kFloat32, 80) == Generation::kSimt);
    EXPECT(generation(DType::kFloat32, 90) == Generation::kSimt);
  }
}

RNC_TEST(operands_that_are_not_whole_aligned_pieces_are_gathered) {
  const Conv2dProblem p = square(4, 14, 64, 64, 3, 1), odd_channels = square(4, 14, 60, 64, 3, 1),
                      odd_filters = square(4, 14, 64, 60, 3, 1),
                      odd_pixels = square(4, 14, 35, 64, 1, 1);
  const auto is_gathered = [](const ConvPlan& plan) {
    return plan.generation == Generation::kSm80 && plan.path == ConvPath::kGathered &&
           plan.tile_n == 64;
  };
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    EXPECT(!is_gathered(rnc::plan_conv(op, p, DType::kBFloat16)));
    EXPECT(is_gathered(rnc::plan_conv(op, p, DType::kBFloat16, {.aligned = false})));
    EXPECT(is_gathered(rnc::plan_conv(op, odd_channels, DType::kFloat16)));
    EXPECT(is_gathered(rnc::plan_conv(op, odd_pixels, DType::kFloat16)));
    // fprop's filters are rows of its output and of nothing else.
    EXPECT_EQ(is_gathered(rnc::plan_conv(op, odd_filters, DType::kBFloat16)), op != ConvOp::kFprop);
    EXPECT(rnc::plan_conv(op, odd_channels, DType::kFloat32).generation == Generation::kSimt);
    // Two sets of accumulators leave no registers to gather into.
    EXPECT(rnc::plan_conv(op, odd_channels, DType::kFloat16, {.narrow = true}).generation ==
           Generation::kSimt);
  }
}

RNC_TEST(a_stem_reads_windows_out_of_the_image_where_padding_pays) {
  const auto path = [](const Conv2dProblem& p, ConvOp op = ConvOp::kFprop,
                       bool normalises = false) {
    return rnc::plan_conv(op, p, DType::kBFloat16, {.normalises = normalises}).path;
  };
  const Conv2dProblem stem = square(4, 224, 3, 64, 7, 2);
  EXPECT(path(stem) == ConvPath::kFewChannels);
  EXPECT(path(stem, ConvOp::kWgrad) == ConvPath::kGathered);
  EXPECT(path(stem, ConvOp::kFprop, true) == ConvPath::kGathered);
  EXPECT(path(square(4, 224, 8, 64, 7, 2)) == ConvPath::kIm2col);
  EXPECT(path(square(4, 224, 9, 64, 7, 2)) == ConvPath::kGathered);
  // 3 x 3 x 3 is one slice when it is gathered, three of padded taps.
  EXPECT(path(square(4, 32, 3, 64, 3, 1)) == ConvPath::kGathered);
  // Two output pixels in a row: the gaps between rows take too much shared memory.
  EXPECT(path(square(4, 8, 3, 64, 7, 2)) == ConvPath::kFewChannels);
  EXPECT(path(square(4, 4, 3, 64, 7, 2)) == ConvPath::kGathered);
}

RNC_TEST(the_runs_of_a_tile_fit_wherever_it_starts) {
  for (const int32_t size : {1, 4, 7, 30, 112, 224, 1000}) {
    for (const int32_t channels : {1, 3, 4, 5, 8}) {
      for (const int32_t stride : {1, 2, 3, 4}) {
        const Conv2dProblem p = square(2, size, channels, 64, 7, stride);
        constexpr int32_t kTile = 128;
        if (!rnc::PixelRuns::can_hold(p, kTile, p.Q)) continue;
        const rnc::PixelRuns runs(p, kTile, p.Q);
        for (int32_t q = 0; q < p.Q; ++q) {
          int32_t end = 0;
          for (int32_t i = 0; i < kTile; ++i) {
            const int32_t offset = runs.window_offset(q, i);
            EXPECT_EQ(offset % 16, 0);
            // The window of an output row's first pixel begins behind the row before.
            EXPECT(i == 0 || (q + i) % p.Q != 0 || offset >= end);
            end = offset + rnc::PixelRuns::kWindowBytes;
          }
          EXPECT(end <= kTile * rnc::PixelRuns::kBytesPerPixel);
        }
      }
    }
  }
}

RNC_TEST(a_max_pool_is_fused_where_the_convolution_alone_reads_windows_out_of_the_image) {
  const auto plan = [](const Conv2dProblem& p, DType dtype = DType::kBFloat16) {
    return rnc::plan_conv(ConvOp::kFprop, p, dtype, {.max_pools = true});
  };
  const ConvPlan stem = plan(square(4, 224, 3, 64, 7, 2));
  EXPECT(!stem.error && stem.path == ConvPath::kFewChannels);
  EXPECT_EQ(stem.tile_m, 256);
  // 56 x 56 pooled pixels in patches of 7 x 8.
  EXPECT_EQ(stem.grid[0], 4 * 8 * 7);
  EXPECT_EQ(stem.bytes, 2 * int64_t(4 * 224 * 224 * 3 + 64 * 7 * 7 * 3 + 4 * 56 * 56 * 64));
  EXPECT_EQ(plan(square(1, 65, 3, 80, 7, 2)).grid[0], 3 * 3 * 2);
  EXPECT(plan(square(4, 224, 3, 64, 7, 2), DType::kFloat32).error);
  for (const int32_t size : {4, 8, 224}) {
    for (const int32_t channels : {3, 5, 8, 9, 64}) {
      for (const int32_t stride : {1, 2, 3}) {
        const Conv2dProblem p = square(2, size, channels, 64, 7, stride);
        const ConvPlan alone = rnc::plan_conv(ConvOp::kFprop, p, DType::kBFloat16);
        // What is gathered sums in another order.
        EXPECT(alone.path == ConvPath::kFewChannels || plan(p).error);
      }
    }
  }
}

RNC_TEST(patches_of_a_max_pool_cover_every_pooled_pixel_and_all_under_it) {
  for (const int32_t size : {1, 2, 13, 14, 15, 16, 17, 112, 113}) {
    Conv2dProblem p = square(2, size, 3, 64, 1, 1);
    const rnc::PoolPatches patches(p);
    std::vector<int> covered(size_t(2 * patches.pooled_P * patches.pooled_Q));
    for (int64_t index = 0; index < patches.count(p.N); ++index) {
      const rnc::PoolPatch patch(patches, int32_t(index));
      EXPECT_EQ(patch.p, 2 * patch.pooled_p - 1);
      EXPECT_EQ(patch.q, 2 * patch.pooled_q - 1);
      for (int32_t i = 0; i < rnc::PoolPatches::kPooledRows; ++i) {
        for (int32_t j = 0; j < rnc::PoolPatches::kPooledColumns; ++j) {
          const int32_t pooled_p = patch.pooled_p + i, pooled_q = patch.pooled_q + j;
          if (pooled_p >= patches.pooled_P || pooled_q >= patches.pooled_Q) continue;
          ++covered[size_t((patch.n * patches.pooled_P + pooled_p) * patches.pooled_Q + pooled_q)];
        }
      }
    }
    for (const int count : covered) EXPECT_EQ(count, 1);
  }
}

RNC_TEST(tensor_cores_take_float32_only_where_tf32_is_allowed) {
  // A slice of depth is 64 bytes of whatever type.
  const Conv2dProblem p = square(4, 14, 36, 36, 3, 1), odd = square(4, 14, 34, 36, 3, 1);
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    for (const int32_t capability : {80, 90}) {
      const ConvPlan allowed = rnc::plan_conv(
          op, p, DType::kFloat32, {.allow_tf32 = true, .device = {.capability = capability}});
      EXPECT(allowed.generation == Generation::kSm80);
      EXPECT_EQ(allowed.tile_k, 16);
      EXPECT_EQ(allowed.depth_per_split % 16, 0);
      EXPECT(std::strstr(allowed.why, "TF32 is allowed") != nullptr);
    }
    const ConvPlan refused = rnc::plan_conv(op, p, DType::kFloat32);
    EXPECT(refused.generation == Generation::kSimt);
    EXPECT(std::strstr(refused.why, "TF32 is not allowed") != nullptr);
    EXPECT(rnc::plan_conv(op, odd, DType::kFloat32, {.allow_tf32 = true}).generation ==
           Generation::kSimt);
    EXPECT(
        rnc::plan_conv(op, p, DType::kFloat32, {.aligned = false, .allow_tf32 = true}).generation ==
        Generation::kSimt);
  }
}

RNC_TEST(allowing_tf32_changes_no_plan_of_another_dtype) {
  const Conv2dProblem p = square(4, 14, 64, 64, 3, 1);
  for (const DType dtype : {DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
      const ConvPlan plain = rnc::plan_conv(op, p, dtype);
      const ConvPlan allowed = rnc::plan_conv(op, p, dtype, {.allow_tf32 = true});
      EXPECT(std::strcmp(plain.kernel, allowed.kernel) == 0);
      EXPECT(std::strcmp(plain.why, allowed.why) == 0);
      EXPECT_EQ(plain.tile_n, allowed.tile_n);
      EXPECT_EQ(plain.tile_k, allowed.tile_k);
    }
  }
}

RNC_TEST(filters_may_be_any_number_where_they_are_rows) {
  const Conv2dProblem p = square(4, 14, 36, 35, 3, 1);
  const rnc::PlanLimits limits{.allow_tf32 = true};
  EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kFloat32, limits).generation ==
         Generation::kSm80);
  EXPECT(rnc::plan_conv(ConvOp::kDgrad, p, DType::kFloat32, limits).generation ==
         Generation::kSimt);
  EXPECT(rnc::plan_conv(ConvOp::kWgrad, p, DType::kFloat32, limits).generation ==
         Generation::kSimt);
}

RNC_TEST(small_groups_are_packed_into_super_groups_of_32_channels) {
  const Conv2dProblem dense = square(8, 28, 256, 256, 3, 1);
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    for (const int32_t channels : {4, 8, 16, 32}) {
      const Conv2dProblem p = in_groups(dense, 256 / channels);
      const ConvPlan plan = rnc::plan_conv(op, p, DType::kBFloat16);
      EXPECT(plan.generation == Generation::kSm80 && plan.path == ConvPath::kGrouped);
      EXPECT_EQ(plan.groups, 256 / 32);
      EXPECT_EQ(plan.diagonal, channels <= 16);
      EXPECT_EQ(plan.grid[1], int64_t(plan.groups) * plan.splits);
      EXPECT_EQ(op == ConvOp::kWgrad ? plan.tile_m : plan.tile_n, 32);
      EXPECT(rnc::plan_conv(op, p, DType::kFloat32).generation == Generation::kSimt);
      EXPECT(rnc::plan_conv(op, p, DType::kBFloat16, {.aligned = false}).generation ==
             Generation::kSimt);
    }
    EXPECT(rnc::plan_conv(ConvOp::kWgrad, in_groups(dense, 64), DType::kBFloat16).splits > 1);
  }
}

RNC_TEST(groups_that_cannot_be_packed_take_tensor_cores_in_whole_pieces_only) {
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    const auto plan = [&](int32_t c, int32_t k, int32_t groups) {
      return rnc::plan_conv(op, in_groups(square(2, 14, c, k, 3, 1), groups), DType::kBFloat16);
    };
    // Groups of 64 and 24 channels, of more filters than channels, of too few for a super-group.
    for (const ConvPlan& whole :
         {plan(256, 256, 4), plan(96, 96, 4), plan(64, 128, 8), plan(24, 24, 3)}) {
      EXPECT(whole.generation != Generation::kSimt && whole.path == ConvPath::kIm2col);
      EXPECT_EQ(whole.grid[1], int64_t(whole.groups) * whole.splits);
      EXPECT(!whole.diagonal);
    }
    // Groups of 2 channels, of 4 where K != C or C is no multiple of 32, of 12.
    for (const ConvPlan& odd :
         {plan(64, 64, 32), plan(64, 128, 16), plan(40, 40, 10), plan(96, 96, 8)}) {
      EXPECT(odd.generation == Generation::kSimt && odd.path == ConvPath::kIm2col);
    }
  }
}

RNC_TEST(a_depthwise_convolution_is_summed_directly_in_every_dtype) {
  const Conv2dProblem p = in_groups(square(8, 56, 72, 72, 3, 2), 72);
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
      const ConvPlan plan = rnc::plan_conv(op, p, dtype);
      EXPECT(plan.error == nullptr);
      EXPECT(plan.generation == Generation::kSimt && plan.path == ConvPath::kDepthwise);
      EXPECT_EQ(plan.groups, 1);
      EXPECT_EQ(plan.grid[1], plan.splits);
      EXPECT_EQ(plan.splits > 1, op == ConvOp::kWgrad);
    }
    const ConvPlan wgrad = rnc::plan_conv(ConvOp::kWgrad, p, dtype);
    EXPECT_EQ(wgrad.grid[0], 2);  // 72 channels, 9 taps
    EXPECT(int64_t(wgrad.depth_per_split) * wgrad.splits >= p.output_pixels());
    // With two filters for each channel.
    const Conv2dProblem wide = in_groups(square(8, 56, 72, 144, 3, 2), 72);
    EXPECT(rnc::plan_conv(ConvOp::kFprop, wide, dtype).path == ConvPath::kIm2col);
  }
}

RNC_TEST(an_unpadded_1x1_takes_the_gemm_path_unless_it_is_a_strided_dgrad) {
  const Conv2dProblem plain = square(2, 14, 64, 64, 1, 1), strided = square(2, 14, 64, 64, 1, 2);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, plain, DType::kFloat32).path == ConvPath::kGemm);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, strided, DType::kFloat32).path == ConvPath::kGemm);
  EXPECT(rnc::plan_conv(ConvOp::kDgrad, plain, DType::kFloat32).path == ConvPath::kGemm);
  EXPECT(rnc::plan_conv(ConvOp::kDgrad, strided, DType::kFloat32).path != ConvPath::kGemm);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, square(2, 14, 64, 64, 3, 1), DType::kFloat32).path !=
         ConvPath::kGemm);
}

RNC_TEST(a_strided_dgrad_computes_no_product_with_a_hole) {
  for (const int32_t kernel : {1, 3, 7}) {
    for (const int32_t stride : {1, 2, 3, 5}) {
      for (const int32_t dilation : {1, 2, 3}) {
        Conv2dProblem p = square(2, 23, 8, 8, kernel, stride);
        p.dilation_h = p.dilation_w = dilation;
        p.pad_h = p.pad_w = kernel / 2 * dilation;
        p.P = p.Q = Conv2dProblem::output_size(23, p.pad_h, dilation, kernel, stride);
        int64_t pixels = 0, tiles = 0, seen = 0;
        for (int32_t i = 0; i < rnc::GradientClass::count(p); ++i) {
          const rnc::GradientClass at(p, i);
          pixels += at.rows(p);
          tiles += (at.rows(p) + 63) / 64;
          // Count the taps that some pixel of the class can see, one by one.
          int64_t taps = 0;
          for (int32_t r = 0; r < p.R; ++r) {
            for (int32_t s = 0; s < p.S; ++s) {
              taps += (at.residue_h + p.pad_h - r * dilation) % stride == 0 &&
                      (at.residue_w + p.pad_w - s * dilation) % stride == 0;
            }
          }
          EXPECT_EQ(at.taps(), taps);
          seen += taps;
        }
        EXPECT_EQ(pixels, p.input_pixels());
        EXPECT_EQ(tiles, rnc::conv_dgrad_stats_tiles(p));
        EXPECT(stride == 1 || dilation % stride == 0 || seen == int64_t(kernel) * kernel);
      }
    }
  }
}

RNC_TEST(a_problem_that_32_bit_pixel_indices_cannot_hold_is_refused) {
  Conv2dProblem p = square(1, 46341, 1, 1, 1, 1);  // 46341^2 > 2^31
  EXPECT(p.input_pixels() > INT32_MAX);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kFloat32).error != nullptr);
  p = square(1, 8, 1 << 28, 8, 3, 1);  // a filter of 9 * 2^28 elements
  for (const ConvOp op : {ConvOp::kFprop, ConvOp::kDgrad, ConvOp::kWgrad}) {
    EXPECT(rnc::plan_conv(op, p, DType::kBFloat16).error != nullptr);
  }
  p = square(1, 46340, 1, 1, 1, 1);  // 88,048 pixels less than 2^31
  EXPECT(rnc::plan_conv(ConvOp::kWgrad, p, DType::kFloat32).error == nullptr);
  p = square(1, 8, 8, 8, 1, 1);
  p.H = p.P = 1;
  p.W = p.Q = INT32_MAX - 4096;  // the last part's last slice would end beyond 2^31
  EXPECT(rnc::plan_conv(ConvOp::kWgrad, p, DType::kBFloat16).error != nullptr);
  EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kBFloat16).error == nullptr);
  p = square(1, 8, 8, 8, 1, 1);
  p.C = p.groups = 70000;  // one GEMM for each group, along the grid's y
  p.K = 2 * p.groups;
  EXPECT(rnc::plan_conv(ConvOp::kFprop, p, DType::kFloat32).error != nullptr);
}
