#include "launch/plan.h"

#include <algorithm>

#include "kernels/batch_norm/batch_norm_params.h"
#include "kernels/conv/sm80/pixel_runs.h"
#include "kernels/conv/window.h"

namespace rnc {
namespace {

// About two blocks on each of 132 multiprocessors, whatever the device: results must not depend on
// it.
constexpr int64_t kTargetBlocks = 264;
// wgrad has few output tiles and a long reduction: its parts are long enough to pay for the ordered
// sum behind them.
constexpr int64_t kWgradMinDepth = 512;
constexpr int64_t kMaxGridY = 65535;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool takes_gemm_path(ConvOp op, const Conv2dProblem& p) {
  if (!p.is_pointwise()) return false;
  // A strided dgrad writes the pixels that were not sampled too, so it needs the general address
  // arithmetic.
  return op != ConvOp::kDgrad || (p.stride_h == 1 && p.stride_w == 1);
}

// Whether windows are read out of the image in shared memory. A slice costs half of a gathered one,
// but padded channels and taps make more slices.
bool takes_few_channels(ConvOp op, const Conv2dProblem& p, bool normalises) {
  if (op != ConvOp::kFprop || normalises || !PixelRuns::can_hold(p)) return false;
  constexpr int64_t kSlice = PixelRuns::kWindowBytes / 2;
  return 2 * PixelRuns(p).slices() <= 3 * ceil_div(p.filter_size(), kSlice);
}

// Null, or why the tensor-core kernels cannot take the problem.
const char* why_not_sm80(const Conv2dProblem& p, DType dtype) {
  if (dtype != DType::kBFloat16 && dtype != DType::kFloat16) {
    return "float64 and float32 are computed without tensor cores, which would round them";
  }
  if (p.groups != 1) return "groups > 1: SIMT is the only generation of kernels yet";
  return nullptr;
}

// Null, or why the operands of the tensor-core kernels have to be gathered element by element.
const char* why_gathered(ConvOp op, const Conv2dProblem& p, bool aligned) {
  constexpr int32_t kPiece = 8;
  // fprop's filters are rows of the GEMM, which may be any number; everything else is contiguous.
  if (p.C % kPiece != 0 || (op != ConvOp::kFprop && p.K % kPiece != 0)) {
    return "channels that are not multiples of 8 do not come in whole 16 bytes: gathered";
  }
  if (!aligned) return "an operand does not start at a multiple of 16 bytes: gathered";
  return nullptr;
}

struct TileChoice {
  int32_t m, n, k;
};

TileChoice choose_tile(const ConvPlan& plan, int64_t m, int64_t n, bool narrow) {
  if (plan.generation == Generation::kSimt) return {64, 64, 16};
  if (plan.path == ConvPath::kGathered || plan.path == ConvPath::kFewChannels) return {128, 64, 32};
  const bool fills_the_device = ceil_div(m, 128) * ceil_div(n, 128) >= kTargetBlocks;
  return {128, n > 64 && fills_the_device && !narrow ? 128 : 64, 32};
}

// By generation, path and op.
constexpr const char* kKernelNames[][4][3] = {
    {{"conv_fprop_simt_im2col", "conv_dgrad_simt_im2col", "conv_wgrad_simt_im2col"},
     {"conv_fprop_simt_gemm", "conv_dgrad_simt_gemm", "conv_wgrad_simt_gemm"}},
    {{"conv_fprop_sm80_im2col", "conv_dgrad_sm80_im2col", "conv_wgrad_sm80_im2col"},
     {"conv_fprop_sm80_gemm", "conv_dgrad_sm80_gemm", "conv_wgrad_sm80_gemm"},
     {"conv_fprop_sm80_gathered", "conv_dgrad_sm80_gathered", "conv_wgrad_sm80_gathered"},
     {"conv_fprop_sm80_few_channels"}},
};

struct KernelChoice {
  Generation generation;
  ConvPath path;
  const char* why;
};

KernelChoice choose_kernel(ConvOp op, const Conv2dProblem& p, DType dtype,
                           const PlanLimits& limits) {
  const bool is_gemm = takes_gemm_path(op, p);
  const ConvPath path = is_gemm ? ConvPath::kGemm : ConvPath::kIm2col;
  if (const char* why = why_not_sm80(p, dtype)) return {Generation::kSimt, path, why};
  const char* odd = why_gathered(op, p, limits.aligned);
  if (!odd) {
    return {Generation::kSm80, path,
            is_gemm ? "1x1 without padding: pixels are GEMM rows, no im2col"
                    : "general window: implicit im2col"};
  }
  if (limits.narrow) {
    return {Generation::kSimt, path,
            "two sets of accumulators leave no registers to gather odd channels into: SIMT"};
  }
  if (takes_few_channels(op, p, limits.normalises)) {
    return {Generation::kSm80, ConvPath::kFewChannels,
            "few channels: windows are read out of the image in shared memory"};
  }
  return {Generation::kSm80, ConvPath::kGathered, odd};
}

}  // namespace

ConvPlan plan_conv(ConvOp op, const Conv2dProblem& p, DType dtype, const PlanLimits& limits) {
  ConvPlan plan{};
  const KernelChoice choice = choose_kernel(op, p, dtype, limits);
  plan.generation = choice.generation;
  plan.path = choice.path;
  plan.why = choice.why;
  plan.kernel = kKernelNames[int(plan.generation)][int(plan.path)][int(op)];

  // A strided dgrad is a GEMM for each class of pixels; the first one is the largest.
  const bool in_classes = op == ConvOp::kDgrad && plan.path != ConvPath::kGemm;
  const int64_t m = in_classes ? GradientClass(p, 0).rows(p) : p.gemm_m(op);
  const int64_t n = p.gemm_n(op), k = p.gemm_k(op);
  const TileChoice tile = choose_tile(plan, m, n, limits.narrow);
  plan.tile_m = tile.m;
  plan.tile_n = tile.n;
  plan.tile_k = tile.k;
  plan.column_tiles = ceil_div(n, tile.n);
  plan.grid[0] = ceil_div(m, tile.m) * plan.column_tiles;
  plan.splits = limits.splits > 0 ? limits.splits : 1;
  if (op == ConvOp::kWgrad && limits.splits == 0) {
    const int64_t wanted = ceil_div(kTargetBlocks, plan.grid[0] * p.groups);
    const int64_t allowed =
        std::min(std::max<int64_t>(k / kWgradMinDepth, 1), kMaxGridY / p.groups);
    plan.splits = int32_t(std::max<int64_t>(std::min(wanted, allowed), 1));
  }
  plan.depth_per_split = int32_t(ceil_div(ceil_div(k, plan.splits), tile.k) * tile.k);
  plan.grid[1] = int64_t(p.groups) * plan.splits;
  plan.grid[2] = in_classes ? GradientClass::count(p) : 1;

  plan.macs = p.macs();
  plan.bytes = (p.x_size() + p.weight_size() + p.y_size()) * int64_t(size_of(dtype));
  if (std::max({p.input_pixels(), p.output_pixels(), k}) > INT32_MAX - tile.m) {
    plan.error = "the convolution has more than 2^31 pixels or filter elements";
  } else if (plan.grid[0] > INT32_MAX) {
    plan.error = "the convolution has more than 2^31 output tiles";
  } else if (plan.grid[1] > kMaxGridY) {
    plan.error = "the convolution has more than 65535 groups";
  }
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
