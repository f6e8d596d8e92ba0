#include "launch/plan.h"

#include <algorithm>

#include "launch/kernel_library.h"

namespace rnc {
namespace {

constexpr int32_t kTile = 64;
constexpr int32_t kTileDepth = 16;

// wgrad has few output tiles and a long reduction: aim for about two blocks on each of 132
// multiprocessors, whatever the device, with parts long enough to pay for the ordered sum behind
// them.
constexpr int64_t kWgradTargetBlocks = 264;
constexpr int64_t kWgradMinDepth = 512;
constexpr int64_t kMaxGridY = 65535;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool takes_gemm_path(ConvOp op, const Conv2dProblem& p) {
  if (!p.is_pointwise()) return false;
  // A strided dgrad writes the pixels that were not sampled too, so it needs the general address
  // arithmetic.
  return op != ConvOp::kDgrad || (p.stride_h == 1 && p.stride_w == 1);
}

}  // namespace

ConvPlan plan_conv(ConvOp op, const Conv2dProblem& p, DType dtype) {
  ConvPlan plan{};
  plan.pointwise = takes_gemm_path(op, p);
  static const char* const kNames[3][2] = {{"conv_fprop_simt_im2col", "conv_fprop_simt_gemm"},
                                           {"conv_dgrad_simt_im2col", "conv_dgrad_simt_gemm"},
                                           {"conv_wgrad_simt_im2col", "conv_wgrad_simt_gemm"}};
  plan.kernel = kNames[int(op)][plan.pointwise];
  plan.why = plan.pointwise
                 ? "1x1 without padding: pixels are GEMM rows, no im2col; SIMT is the only "
                   "generation of kernels yet"
                 : "general window: implicit im2col; SIMT is the only generation of kernels yet";
  plan.tile_m = plan.tile_n = kTile;
  plan.tile_k = kTileDepth;

  const int64_t m = p.gemm_m(op), n = p.gemm_n(op), k = p.gemm_k(op);
  const int64_t tiles = ceil_div(m, kTile) * ceil_div(n, kTile) * p.groups;
  plan.splits = 1;
  if (op == ConvOp::kWgrad) {
    const int64_t wanted = ceil_div(kWgradTargetBlocks, tiles);
    const int64_t allowed =
        std::min(std::max<int64_t>(k / kWgradMinDepth, 1), kMaxGridY / p.groups);
    plan.splits = int32_t(std::max<int64_t>(std::min(wanted, allowed), 1));
  }
  plan.depth_per_split = int32_t(ceil_div(ceil_div(k, plan.splits), kTileDepth) * kTileDepth);
  plan.column_tiles = ceil_div(n, kTile);
  plan.grid[0] = ceil_div(m, kTile) * plan.column_tiles;
  plan.grid[1] = int64_t(p.groups) * plan.splits;
  plan.grid[2] = 1;

  plan.macs = p.macs();
  plan.bytes = (p.x_size() + p.weight_size() + p.y_size()) * int64_t(size_of(dtype));
  if (std::max({p.input_pixels(), p.output_pixels(), k}) > INT32_MAX - kTile) {
    plan.error = "the convolution has more than 2^31 pixels or filter elements";
  } else if (plan.grid[0] > INT32_MAX) {
    plan.error = "the convolution has more than 2^31 output tiles";
  } else if (plan.grid[1] > kMaxGridY) {
    plan.error = "the convolution has more than 65535 groups";
  }
  return plan;
}

int32_t conv_wgrad_splits(const Conv2dProblem& problem) {
  return plan_conv(ConvOp::kWgrad, problem, DType::kFloat32).splits;
}

}  // namespace rnc
