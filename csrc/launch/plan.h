// Which kernel runs a convolution pass, with which tile and why: decided on the host from the shape
// and a few numbers of the device, so that it can be explained and tested.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "kernels/conv/conv_problem.h"

namespace rnc {

// Kernels of later generations need more of the hardware and of the problem, and are faster.
enum class Generation : int32_t { kSimt, kSm80, kSm90 };

// What an op that picks among generations calls its kernels.
struct GenerationNames {
  const char* simt;
  const char* sm80;
  const char* sm90;

  const char* of(Generation generation) const {
    return generation == Generation::kSimt ? simt : generation == Generation::kSm80 ? sm80 : sm90;
  }
};

// How the GEMM behind the pass is formed.
enum class ConvPath : int32_t {
  kIm2col,       // rows are windows of the image
  kGemm,         // rows are pixels
  kGrouped,      // windows; small groups are packed into super-groups of 32 channels and filters
  kDepthwise,    // windows; every channel is a column, and meets its own filter only
  kGathered,     // windows, fetched element by element
  kFewChannels,  // windows of the image, which lies in shared memory itself
  kHalo,         // windows in squares, whose pixels lie in shared memory for several taps
};

struct ConvPlan {
  Generation generation;
  ConvPath path;
  const char* kernel;  // e.g. "conv_fprop_simt_im2col"
  const char* why;     // one sentence
  int32_t groups;      // of the GEMM: the problem's, packed ones, or 1 of all channels
  bool diagonal;       // of a packed super-group only the blocks on the diagonal are multiplied
  int32_t tile_m, tile_n, tile_k;
  int32_t splits;  // ordered parts of the reduction (wgrad)
  int32_t depth_per_split;
  int64_t column_tiles;
  int64_t grid[3];  // row tiles * column tiles, the GEMM's groups * splits, classes of dgrad's rows
  int64_t macs;
  int64_t bytes;      // minimal traffic: every operand once
  const char* error;  // nullptr, or why no kernel can run this problem
};

// What of the device decides about kernels. The parts of a reduction are always those of a device
// with as many multiprocessors as are described here, and every tile sums in the same order:
// results depend on the generation that the capability allows, and on nothing else of a device.
struct PlanDevice {
  int32_t multiprocessors = 132;
  int32_t capability = 90;  // compute capability 9.0

  bool operator==(const PlanDevice&) const = default;
};

// What the shape does not say.
struct PlanLimits {
  bool aligned = true;      // every operand starts at a multiple of 16 bytes
  int32_t splits = 0;       // parts of wgrad's reduction; 0: as many as are best
  bool narrow = false;      // two sets of accumulators have to fit, or two tensors of an operand
  bool normalises = false;  // x is normalised on load
  bool takes_sums = false;  // dgrad: of its result, for batch norm's backward
  bool allow_tf32 = false;  // float32 may be multiplied as TF32
  bool max_pools = false;   // the kernel pools what it has computed (conv/pool_patches.h)
  Generation newest = Generation::kSm90;  // of the kernels that may be chosen
  PlanDevice device = {};
};

// The problem as the GEMM has it: with the plan's groups.
inline Conv2dProblem gemm_problem(const ConvPlan& plan, Conv2dProblem problem) {
  problem.groups = plan.groups;
  return problem;
}

ConvPlan plan_conv(ConvOp op, const Conv2dProblem& problem, DType dtype,
                   const PlanLimits& limits = {});

// Rows over which fp32 adds a product whose parts are merged in fp64, at most.
constexpr int32_t kMaxProductDepth = 4096;

// wgrad's plan for a product over pixels of [rows of the gradient, pixels] and [pixels, channels]:
// in parts of at most kMaxProductDepth pixels. symmetric: both matrices are the same, so that the
// tiles are square and those below the diagonal are left out.
ConvPlan plan_pixel_product(const Conv2dProblem& problem, DType dtype, bool symmetric,
                            const PlanLimits& limits = {});

// fprop's plan for a bottleneck's expand and the reduce of the block behind it in one kernel:
// `expand` is a 1x1 convolution, `reduced` the reduce's filters.
ConvPlan plan_expand_reduce(const Conv2dProblem& expand, int32_t reduced, DType dtype,
                            const PlanLimits& limits = {});

// fprop's plan for a whole bottleneck with an identity shortcut in one kernel: `convolution` is its
// 3x3, `channels` those that the block takes and gives.
ConvPlan plan_bottleneck_block(const Conv2dProblem& convolution, int32_t channels, DType dtype,
                               const PlanLimits& limits = {});

// Tiles of rows of which dgrad writes sums: every class of pixels that see the same taps has tiles
// of its own.
int64_t conv_dgrad_stats_tiles(const Conv2dProblem& problem);

}  // namespace rnc
