// Which kernel runs a convolution pass, with which tile and why: decided on the host from the shape
// alone, so that it can be explained, tested and repeated on another device.
#pragma once

#include <cstdint>

#include "common/dtype.h"
#include "kernels/conv/conv_problem.h"

namespace rnc {

// Kernels of later generations need more of the hardware and of the problem, and are faster.
enum class Generation : int32_t { kSimt, kSm80 };

// How the GEMM behind the pass is formed.
enum class ConvPath : int32_t {
  kIm2col,       // rows are windows of the image
  kGemm,         // rows are pixels
  kGathered,     // as kIm2col, fetched element by element
  kFewChannels,  // rows are windows of the image, which lies in shared memory itself
};

struct ConvPlan {
  Generation generation;
  ConvPath path;
  const char* kernel;  // e.g. "conv_fprop_simt_im2col"
  const char* why;     // one sentence
  int32_t tile_m, tile_n, tile_k;
  int32_t splits;  // ordered parts of the reduction (wgrad)
  int32_t depth_per_split;
  int64_t column_tiles;
  int64_t grid[3];  // row tiles * column tiles, groups * splits, classes of dgrad's rows
  int64_t macs;
  int64_t bytes;      // minimal traffic: every operand once
  const char* error;  // nullptr, or why no kernel can run this problem
};

// What the shape does not say.
struct PlanLimits {
  bool aligned = true;      // every operand starts at a multiple of 16 bytes
  int32_t splits = 0;       // parts of wgrad's reduction; 0: as many as are best
  bool narrow = false;      // two sets of accumulators have to fit
  bool normalises = false;  // x is normalised on load
};

ConvPlan plan_conv(ConvOp op, const Conv2dProblem& problem, DType dtype,
                   const PlanLimits& limits = {});

// Tiles of rows of which dgrad writes sums: every class of pixels that see the same taps has tiles
// of its own.
int64_t conv_dgrad_stats_tiles(const Conv2dProblem& problem);

}  // namespace rnc
