#include "launch/plan.h"

#include <algorithm>

#include "kernels/batch_norm/batch_norm_params.h"
#include "kernels/bottleneck/bottleneck_params.h"
#include "kernels/conv/pool_patches.h"
#include "kernels/conv/sm80/pixel_runs.h"
#include "kernels/conv/sm90/box_axis.h"
#include "kernels/conv/sm90/halo_square.h"
#include "kernels/conv/window.h"

namespace rnc {
namespace {

// About two blocks on each multiprocessor.
constexpr int64_t kBlocksPerMultiprocessor = 2;
// The costs of a block with a 128 x 128 and of one with a 128 x 64 tile: on Ampere a slice of 64
// bytes of depth takes the first 512 cycles of tensor cores, and the second, which reads more of
// shared memory per product, 288 cycles of shared memory.
constexpr double kLargeTileCost = 512, kNarrowTileCost = 288;
constexpr int32_t kSliceBytes = 64;  // of depth
// Of every Hopper kernel but wgrad's and those with halos.
constexpr int32_t kHopperRows = 128;
// Of the kernels that read windows out of the image, with and without a max-pool behind them.
constexpr int32_t kFewChannelsRows = 128, kPatchRows = 256;
// wgrad has few output tiles and a long reduction: its parts are long enough to pay for the ordered
// sum behind them.
constexpr int64_t kWgradMinDepth = 512;
constexpr int64_t kMaxGridY = 65535;
// The oldest compute capability that runs the kernels of Generation::kSm80: 8.0. Those of kSm90 use
// instructions that only 9.0 has.
constexpr int32_t kSm80Capability = 80, kSm90Capability = 90;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool takes_gemm_path(ConvOp op, const Conv2dProblem& p) {
  if (!p.is_pointwise()) return false;
  // A strided dgrad writes the pixels that were not sampled too, so it needs the general address
  // arithmetic.
  return op != ConvOp::kDgrad || (p.stride_h == 1 && p.stride_w == 1);
}

// Whether windows are read out of the image in shared memory. A slice costs half of a gathered one,
// but padded channels and taps make more slices.
bool takes_few_channels(ConvOp op, const Conv2dProblem& p, const PlanLimits& limits) {
  if (op != ConvOp::kFprop || limits.normalises) return false;
  if (!PixelRuns::can_hold(p, kFewChannelsRows, p.Q)) return false;
  // A pool behind it must not show in the sums, so it takes no other convolutions.
  if (limits.max_pools && !PixelRuns::can_hold(p, kPatchRows, PoolPatches::kColumns)) return false;
  constexpr int64_t kSlice = PixelRuns::kWindowBytes / 2;
  return 2 * PixelRuns(p, kFewChannelsRows, p.Q).slices() <= 3 * ceil_div(p.filter_size(), kSlice);
}

// Null, or why the operands of the tensor-core kernels cannot be copied in whole 16 bytes.
const char* why_not_in_pieces(ConvOp op, const Conv2dProblem& p, DType dtype, bool aligned) {
  const int32_t piece = 16 / int32_t(size_of(dtype));
  // fprop's filters are rows of the GEMM, which may be any number; everything else is contiguous.
  const bool in_pieces = p.channels_per_group() % piece == 0 &&
                         (op == ConvOp::kFprop || p.filters_per_group() % piece == 0);
  if (!in_pieces) {
    return piece == 8 ? "channels that are not multiples of 8 do not come in whole 16 bytes"
                      : "channels that are not multiples of 4 do not come in whole 16 bytes";
  }
  return aligned ? nullptr : "an operand does not start at a multiple of 16 bytes";
}

// Null, or why TMA cannot bring the operands of the Hopper kernels, or they would not gain by it.
const char* why_not_by_tma(ConvOp op, const Conv2dProblem& p, DType dtype) {
  const bool in_16_bits = size_of(dtype) == 2;
  if (!in_16_bits && op != ConvOp::kFprop) {
    return "TF32 is allowed; wgmma transposes no float32, and operands are not along the depth: "
           "mma.sync";
  }
  const int32_t box = box_channels(int(size_of(dtype)));
  const auto say = [&](const char* of_16_bits, const char* of_float32) {
    return in_16_bits ? of_16_bits : of_float32;
  };
  // What boxes run along: the depth of fprop and dgrad, the columns of wgrad.
  const int32_t channels = op == ConvOp::kDgrad ? p.filters_per_group() : p.channels_per_group();
  const bool fills_boxes = channels % box == 0;
  const bool sees_taps = op == ConvOp::kWgrad && p.filter_size() > channels;
  if (p.groups != 1 && !fills_boxes) {
    return say("groups whose channels are not multiples of 64 would share boxes of TMA: mma.sync",
               "TF32 is allowed; groups whose channels are not multiples of 32 would share boxes "
               "of TMA: mma.sync");
  }
  if (sees_taps && !fills_boxes) {
    return "channels that are not multiples of 64 would share boxes of TMA between taps: mma.sync";
  }
  if (3 * ceil_div(channels, box) * box > 4 * channels) {
    return say("too few channels to fill boxes of 64: mma.sync",
               "TF32 is allowed; too few channels to fill boxes of 32: mma.sync");
  }
  const auto fits = [&](const WindowAxis& h, const WindowAxis& w) {
    return fits_im2col(h) && fits_im2col(w);
  };
  bool all_fit = true;
  if (op != ConvOp::kDgrad) {
    all_fit = fits(fprop_axis(p.H, p.P, p.stride_h, p.pad_h, p.R, p.dilation_h),
                   fprop_axis(p.W, p.Q, p.stride_w, p.pad_w, p.S, p.dilation_w));
  } else if (!takes_gemm_path(op, p)) {
    for (int32_t i = 0; i < GradientClass::count(p); ++i) {
      const GradientClass at(p, i);
      all_fit = all_fit && fits(at.h.window, at.w.window);
    }
  }
  if (all_fit) return nullptr;
  return say("strides, padding or dilation are beyond what TMA's windows describe: mma.sync",
             "TF32 is allowed; strides, padding or dilation are beyond what TMA's windows "
             "describe: mma.sync");
}

// Whether the windows of squares of pixels share what TMA brings, under filters that stay in shared
// memory.
bool takes_halo(ConvOp op, const Conv2dProblem& p, const PlanLimits& limits) {
  constexpr int32_t kMost = HaloSquare::kChannels;
  if (op == ConvOp::kWgrad || p.groups != 1 || p.C > kMost || p.K > kMost) return false;
  if (op == ConvOp::kDgrad) {
    const GradientClass at(p, 0);
    return GradientClass::count(p) == 1 && fits_halo(at.h.window) && fits_halo(at.w.window);
  }
  return !limits.narrow &&  // no second set of accumulators
         fits_halo(fprop_axis(p.H, p.P, p.stride_h, p.pad_h, p.R, p.dilation_h)) &&
         fits_halo(fprop_axis(p.W, p.Q, p.stride_w, p.pad_w, p.S, p.dilation_w));
}

struct PathChoice {
  Generation generation;
  ConvPath path;
  const char* why;
};

PathChoice choose_path(ConvOp op, const Conv2dProblem& p, DType dtype, const PlanLimits& limits) {
  const bool is_gemm = takes_gemm_path(op, p);
  const auto simt = [&](const char* why) {
    return PathChoice{Generation::kSimt, is_gemm ? ConvPath::kGemm : ConvPath::kIm2col, why};
  };
  const auto sm80 = [](ConvPath path, const char* why) {
    return PathChoice{Generation::kSm80, path, why};
  };
  if (p.is_depthwise()) {
    return {Generation::kSimt, ConvPath::kDepthwise,
            "one channel and one filter per group: summed directly, without tensor cores"};
  }
  if (dtype == DType::kFloat64) return simt("float64 is computed without tensor cores: SIMT");
  if (limits.device.capability < kSm80Capability) {
    return simt("the GPU is older than compute capability 8.0: SIMT");
  }
  if (limits.newest == Generation::kSimt) {
    return simt("the product beside it is computed without tensor cores: SIMT");
  }
  if (dtype == DType::kFloat32 && !limits.allow_tf32) {
    return simt("TF32 is not allowed, so float32 is exact: SIMT");
  }
  const bool in_16_bits = size_of(dtype) == 2;
  if (in_16_bits && p.is_packable() && limits.aligned) {
    return sm80(ConvPath::kGrouped,
                "small groups: packed into super-groups of 32 channels and 32 filters");
  }
  if (const char* odd = why_not_in_pieces(op, p, dtype, limits.aligned)) {
    if (!in_16_bits) return simt(odd);
    if (p.groups != 1) {
      return simt(limits.aligned
                      ? "groups whose channels are not multiples of 8 are packed only where they "
                        "are 4, K = C, and C a multiple of 32: SIMT"
                      : odd);
    }
    if (limits.narrow) {
      return simt(
          "gathering odd channels or pointers leaves no registers for a second tensor: SIMT");
    }
    if (takes_few_channels(op, p, limits)) {
      return sm80(ConvPath::kFewChannels,
                  "few channels: windows are read out of the image in shared memory");
    }
    return sm80(ConvPath::kGathered, odd);
  }
  if (limits.device.capability == kSm90Capability && limits.newest == Generation::kSm90) {
    const ConvPath path = is_gemm ? ConvPath::kGemm : ConvPath::kIm2col;
    if (const char* not_by_tma = why_not_by_tma(op, p, dtype)) return sm80(path, not_by_tma);
    if (in_16_bits && takes_halo(op, p, limits)) {
      return {Generation::kSm90, ConvPath::kHalo,
              "3x3 of at most 64 channels: TMA loads squares of pixels once for three taps"};
    }
    const char* by_tma = is_gemm ? "1x1 without padding: pixels are GEMM rows, loaded by TMA"
                                 : "general window: TMA's im2col mode loads it";
    const char* as_tf32 = is_gemm ? "TF32 is allowed; 1x1 without padding: pixels are GEMM rows, "
                                    "loaded by TMA"
                                  : "TF32 is allowed; general window: TMA's im2col mode loads it";
    return {Generation::kSm90, path, in_16_bits ? by_tma : as_tf32};
  }
  if (is_gemm) {
    return sm80(ConvPath::kGemm,
                in_16_bits
                    ? "1x1 without padding: pixels are GEMM rows, no im2col"
                    : "TF32 is allowed; 1x1 without padding: pixels are GEMM rows, no im2col");
  }
  return sm80(ConvPath::kIm2col, in_16_bits ? "general window: implicit im2col"
                                            : "TF32 is allowed; general window: implicit im2col");
}

// By generation, path and op.
constexpr const char* kKernelNames[][7][3] = {
    {{"conv_fprop_simt_im2col", "conv_dgrad_simt_im2col", "conv_wgrad_simt_im2col"},
     {"conv_fprop_simt_gemm", "conv_dgrad_simt_gemm", "conv_wgrad_simt_gemm"},
     {},
     {"conv_fprop_simt_depthwise", "conv_dgrad_simt_depthwise", "conv_wgrad_simt_depthwise"}},
    {{"conv_fprop_sm80_im2col", "conv_dgrad_sm80_im2col", "conv_wgrad_sm80_im2col"},
     {"conv_fprop_sm80_gemm", "conv_dgrad_sm80_gemm", "conv_wgrad_sm80_gemm"},
     {"conv_fprop_sm80_grouped", "conv_dgrad_sm80_grouped", "conv_wgrad_sm80_grouped"},
     {},
     {"conv_fprop_sm80_gathered", "conv_dgrad_sm80_gathered", "conv_wgrad_sm80_gathered"},
     {"conv_fprop_sm80_few_channels"}},
    {{"conv_fprop_sm90_im2col", "conv_dgrad_sm90_im2col", "conv_wgrad_sm90_im2col"},
     {"conv_fprop_sm90_gemm", "conv_dgrad_sm90_gemm", "conv_wgrad_sm90_gemm"},
     {},
     {},
     {},
     {},
     {"conv_fprop_sm90_halo", "conv_dgrad_sm90_halo"}},
};

struct TileChoice {
  int32_t m, n, k;
};

// Of the main loop with tiles of several sizes. `gemms`: how many GEMMs of m x n the launch
// computes.
int32_t choose_columns(ConvOp op, int64_t m, int64_t n, int64_t gemms, const PlanLimits& limits) {
  const int64_t row_tiles = ceil_div(m, 128) * gemms;
  // What the busiest multiprocessor has to do; the parts of wgrad's reduction fill them all.
  const auto cost = [&](int32_t columns, double of_block) {
    const int64_t blocks = row_tiles * ceil_div(n, columns);
    const int64_t rounds =
        op == ConvOp::kWgrad ? blocks : ceil_div(blocks, limits.device.multiprocessors);
    return double(rounds) * of_block;
  };
  const bool large = !limits.narrow && cost(128, kLargeTileCost) <= cost(64, kNarrowTileCost);
  return large ? 128 : 64;
}

// What a multiprocessor takes for a Hopper tile of so many columns, in tenths of clocks: for a
// slice of the depth one a line of shared memory, written or read, which is not less than the
// tensor cores take, and 5.4 a line that comes from the L2 cache; then the epilogue, 24 a column,
// of which 16 are instructions. The next tile is loaded meanwhile. Of two blocks one multiplies
// while the other one stores. (benchmarks/kernels/prediction.py has the numbers' sources.)
struct HopperTile {
  int32_t columns;
  int32_t pair = 1;    // blocks that load columns for each other
  int32_t blocks = 1;  // that a multiprocessor has room for

  int64_t cost(int64_t slices, int32_t together) const {
    const int64_t multiply = 10 * slices * (2 * kHopperRows + 3 * columns);
    const int64_t store = 240 * columns;
    const int64_t load = 54 * slices * (kHopperRows + columns / pair);
    if (together == 1) return std::max(load, multiply + store);
    return std::max({2 * load, 2 * multiply, 2 * 160 * int64_t(columns), multiply + store});
  }
};

// Widest first: among equals it loads least.
int32_t choose_hopper_columns(ConvOp op, int64_t m, int64_t n, int64_t slices, int64_t gemms,
                              const PlanLimits& limits) {
  const bool is_fprop = op == ConvOp::kFprop;
  if (is_fprop && limits.narrow) return 64;  // two sets of accumulators
  // Operands of two tensors, or of two GEMMs, leave no room for 256; those that are changed, and
  // dgrad's sums, leave no registers for two blocks.
  const bool takes_sums = op == ConvOp::kDgrad && limits.takes_sums;
  const bool alone = limits.narrow || limits.normalises || takes_sums;
  const HopperTile tiles[] = {{256, 2}, {128, 2}, {64, 1, alone ? 1 : 2}};
  const int64_t row_tiles = ceil_div(m, kHopperRows) * gemms;
  int32_t best = 0;
  int64_t least = INT64_MAX;
  for (const HopperTile& tile : tiles) {
    const bool half_would_do = tile.columns > 64 && tile.columns / 2 >= n;
    if (half_would_do || (tile.columns == 256 && limits.narrow)) continue;
    const int64_t multiprocessors = limits.device.multiprocessors;
    const int64_t blocks = ceil_div(row_tiles, tile.pair) * tile.pair * ceil_div(n, tile.columns);
    const int32_t together = blocks > multiprocessors ? tile.blocks : 1;
    const int64_t cost = ceil_div(blocks, together * multiprocessors) * tile.cost(slices, together);
    if (cost < least) best = tile.columns, least = cost;
  }
  return best;
}

TileChoice choose_tile(const ConvPlan& plan, ConvOp op, DType dtype, int64_t m, int64_t n,
                       int64_t k, int64_t gemms, const PlanLimits& limits) {
  const bool is_wgrad = op == ConvOp::kWgrad;
  if (plan.path == ConvPath::kDepthwise) {
    return is_wgrad ? TileChoice{64, 16, 16} : TileChoice{64, 64, 1};
  }
  if (plan.generation == Generation::kSimt) return {64, 64, 16};
  const int32_t box = box_channels(int(size_of(dtype)));
  if (plan.path == ConvPath::kHalo) {
    return {HaloSquare::tile_rows(limits.narrow), HaloSquare::kChannels, box};
  }
  if (plan.generation == Generation::kSm90) {
    if (is_wgrad) return m <= 64 ? TileChoice{64, 256, box} : TileChoice{128, 128, box};
    return {kHopperRows, choose_hopper_columns(op, m, n, ceil_div(k, box), gemms, limits), box};
  }
  const int32_t depth = kSliceBytes / int32_t(size_of(dtype));
  if (plan.path == ConvPath::kGrouped) {
    return is_wgrad ? TileChoice{32, 128, depth} : TileChoice{128, 32, depth};
  }
  if (plan.path == ConvPath::kFewChannels) {
    return {limits.max_pools ? kPatchRows : kFewChannelsRows, 64, depth};
  }
  if (plan.path == ConvPath::kGathered) return {128, 64, depth};
  return {128, choose_columns(op, m, n, gemms, limits), depth};
}

// Null, or why an expand and a reduce cannot share a kernel.
const char* why_not_expand_reduce(const Conv2dProblem& p, int32_t reduced, DType dtype,
                                  const PlanLimits& limits) {
  if (limits.device.capability != kSm90Capability) {
    return "bottleneck_expand_reduce needs compute capability 9.0";
  }
  if (size_of(dtype) != 2) return "bottleneck_expand_reduce needs bfloat16 or float16";
  if (!p.is_pointwise() || p.stride_h != 1 || p.stride_w != 1 || p.groups != 1) {
    return "bottleneck_expand_reduce needs 1x1 filters without padding, stride or groups";
  }
  if (p.C % kBoxChannels<bfloat16> != 0 || p.K % kBoxChannels<bfloat16> != 0) {
    return "bottleneck_expand_reduce needs channels that are multiples of 64";
  }
  if (p.C > BottleneckExpandReduceParams::kMostChannels) {
    return "bottleneck_expand_reduce needs at most 256 channels to expand: all of a tile's stay in "
           "shared memory";
  }
  if (reduced != 64 && reduced != 128 && reduced != 256) {
    return "bottleneck_expand_reduce needs 64, 128 or 256 filters that reduce: all of a tile's "
           "sums stay in registers";
  }
  if (!limits.aligned) {
    return "bottleneck_expand_reduce needs operands that start at multiples of 16 bytes";
  }
  // The last cluster of blocks may pass the end.
  return p.output_pixels() > INT32_MAX - 2 * kHopperRows
             ? "bottleneck_expand_reduce needs fewer than 2^31 pixels"
             : nullptr;
}

// The device whose results all devices of its capability have.
PlanLimits on_standard_device(PlanLimits limits) {
  limits.device.multiprocessors = PlanDevice().multiprocessors;
  return limits;
}

// Parts of a long reduction with so many output tiles: those that fill that device.
int32_t choose_splits(Generation generation, int64_t tiles, int64_t groups, int64_t depth) {
  const int64_t multiprocessors = PlanDevice().multiprocessors;
  // On Hopper one block stays on each: one tile more than there are takes as long as twice as many.
  const int64_t wanted = generation == Generation::kSm90
                             ? multiprocessors / (tiles * groups)
                             : ceil_div(kBlocksPerMultiprocessor * multiprocessors, tiles * groups);
  const int64_t allowed =
      std::min(std::max<int64_t>(depth / kWgradMinDepth, 1), kMaxGridY / groups);
  return int32_t(std::max<int64_t>(std::min(wanted, allowed), 1));
}

// Rounded up to whole slices.
int32_t depth_per_split(int64_t depth, int32_t splits, int32_t tile_k) {
  return int32_t(ceil_div(ceil_div(depth, splits), tile_k) * tile_k);
}

}  // namespace

ConvPlan plan_conv(ConvOp op, const Conv2dProblem& p, DType dtype, const PlanLimits& limits) {
  ConvPlan plan{};
  const PathChoice choice = choose_path(op, p, dtype, limits);
  plan.generation = choice.generation;
  plan.path = choice.path;
  plan.why = choice.why;
  plan.kernel = kKernelNames[int(plan.generation)][int(plan.path)][int(op)];
  plan.groups = plan.path == ConvPath::kDepthwise ? 1
                : plan.path == ConvPath::kGrouped ? p.C / kPackedChannels
                                                  : p.groups;
  plan.diagonal = plan.path == ConvPath::kGrouped && p.channels_per_group() <= kDiagonalChannels;

  // A strided dgrad is a GEMM for each class of pixels; the first one is the largest.
  const bool in_classes = op == ConvOp::kDgrad && plan.path != ConvPath::kGemm;
  const int64_t classes = in_classes ? GradientClass::count(p) : 1;
  const Conv2dProblem gemm = gemm_problem(plan, p);
  const int64_t m = in_classes ? GradientClass(p, 0).rows(p) : gemm.gemm_m(op);
  // A depthwise wgrad has a column for each tap.
  const bool columns_are_taps = plan.path == ConvPath::kDepthwise && op == ConvOp::kWgrad;
  const int64_t n = columns_are_taps ? p.filter_size() : gemm.gemm_n(op);
  const int64_t k = gemm.gemm_k(op);
  const TileChoice tile =
      choose_tile(plan, op, dtype, m, n, ceil_div(k, classes), classes * plan.groups, limits);
  plan.tile_m = tile.m;
  plan.tile_n = tile.n;
  plan.tile_k = tile.k;
  plan.column_tiles = ceil_div(n, tile.n);
  plan.grid[0] = ceil_div(m, tile.m) * plan.column_tiles;
  plan.splits = limits.splits > 0 ? limits.splits : 1;
  if (op == ConvOp::kWgrad && limits.splits == 0) {
    // The same parts on every device.
    const PlanLimits standard = on_standard_device(limits);
    plan.splits = limits.device == standard.device
                      ? choose_splits(plan.generation, ceil_div(m, tile.m) * ceil_div(n, tile.n),
                                      plan.groups, k)
                      : plan_conv(op, p, dtype, standard).splits;
  }
  plan.depth_per_split = depth_per_split(k, plan.splits, tile.k);
  plan.grid[1] = int64_t(plan.groups) * plan.splits;
  plan.grid[2] = classes;

  plan.macs = p.macs();
  int64_t y_size = p.y_size();
  if (limits.max_pools) {
    const PoolPatches patches(p);
    plan.kernel = "conv_max_pool_sm80_few_channels";
    plan.grid[0] = patches.count(p.N) * plan.column_tiles;
    y_size = int64_t(p.N) * patches.pooled_P * patches.pooled_Q * p.K;
  }
  plan.bytes = (p.x_size() + p.weight_size() + y_size) * int64_t(size_of(dtype));
  // Indices may pass the end by a tile, and by a slice for each part.
  const int64_t largest = INT32_MAX - tile.m - int64_t(plan.splits) * tile.k;
  if (std::max({p.input_pixels(), p.output_pixels(), p.filter_size(), gemm.gemm_n(op), k}) >
      largest) {
    plan.error = "the convolution has more than 2^31 pixels or filter elements";
  } else if (plan.grid[0] > INT32_MAX) {
    plan.error = "the convolution has more than 2^31 output tiles";
  } else if (plan.grid[1] > kMaxGridY) {
    plan.error = "the convolution has more than 65535 groups";
  } else if (limits.max_pools && plan.path != ConvPath::kFewChannels) {
    plan.error = "a max-pool is fused into 16-bit convolutions of few channels only";
  }
  return plan;
}

ConvPlan plan_pixel_product(const Conv2dProblem& p, DType dtype, bool symmetric,
                            const PlanLimits& given) {
  PlanLimits limits = given;
  limits.narrow = true;
  ConvPlan plan = plan_conv(ConvOp::kWgrad, p, dtype, limits);
  if (symmetric && plan.generation == Generation::kSm80) {
    plan.tile_m = plan.tile_n = p.C <= 64 ? 64 : 128;
  }
  const int64_t rows = ceil_div(p.K, plan.tile_m), depth = p.output_pixels();
  plan.column_tiles = ceil_div(p.C, plan.tile_n);
  const int64_t tiles = symmetric ? rows * (rows + 1) / 2 : rows * plan.column_tiles;
  const PlanLimits standard = on_standard_device(given);
  plan.splits = limits.splits > 0 ? limits.splits
                : given.device == standard.device
                    ? std::max(choose_splits(plan.generation, tiles, 1, depth),
                               int32_t(ceil_div(depth, kMaxProductDepth)))
                    : plan_pixel_product(p, dtype, symmetric, standard).splits;
  plan.depth_per_split = depth_per_split(depth, plan.splits, plan.tile_k);
  plan.grid[0] = rows * plan.column_tiles;
  plan.grid[1] = plan.splits;
  if (plan.splits > kMaxGridY) plan.error = "there are more than 2^28 pixels to sum over";
  return plan;
}

ConvPlan plan_expand_reduce(const Conv2dProblem& p, int32_t reduced, DType dtype,
                            const PlanLimits& limits) {
  ConvPlan plan{};
  plan.generation = Generation::kSm90;
  plan.path = ConvPath::kGemm;
  plan.kernel = "bottleneck_expand_reduce_sm90_gemm";
  plan.why = "the next block's reduce multiplies what the expand has stored before it leaves";
  plan.groups = plan.splits = 1;
  plan.tile_m = kHopperRows;
  plan.tile_n = reduced;
  plan.tile_k = kBoxChannels<bfloat16>;
  plan.depth_per_split = p.K;
  plan.column_tiles = 1;
  const int64_t rows = p.output_pixels();
  plan.grid[0] = ceil_div(rows, kHopperRows);
  plan.grid[1] = plan.grid[2] = 1;
  plan.macs = p.macs() + rows * p.K * reduced;
  // x, the shortcut, y and z, and both filters.
  plan.bytes = (rows * (p.C + 2 * int64_t(p.K) + reduced) + int64_t(p.K) * (p.C + reduced)) *
               int64_t(size_of(dtype));
  plan.error = why_not_expand_reduce(p, reduced, dtype, limits);
  return plan;
}

int64_t conv_dgrad_stats_tiles(const Conv2dProblem& p) {
  int64_t tiles = 0;
  for (int32_t i = 0; i < GradientClass::count(p); ++i) {
    tiles += stats_tiles(GradientClass(p, i).rows(p));
  }
  return tiles;
}

}  // namespace rnc
