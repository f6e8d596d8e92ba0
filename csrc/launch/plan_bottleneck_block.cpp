// The plan of a whole bottleneck in one kernel. (Those of all other passes are in plan.cpp.)
#include "kernels/bottleneck/block_strips.h"
#include "launch/plan.h"

namespace rnc {
namespace {

constexpr int32_t kCapability = 90;  // its kernel uses instructions that only 9.0 has
// Of which all filters stay in shared memory.
constexpr int32_t kChannels = 256, kReduced = 64;
constexpr int32_t kWarpgroups = 2;
constexpr int32_t kRows = kWarpgroups * BlockStrips::kBoxPixels;

// Null, or why a whole bottleneck cannot be one kernel.
const char* why_not_bottleneck_block(const Conv2dProblem& p, int32_t channels, DType dtype,
                                     const PlanLimits& limits) {
  if (limits.device.capability != kCapability) {
    return "bottleneck_block needs compute capability 9.0";
  }
  if (size_of(dtype) != 2) return "bottleneck_block needs bfloat16 or float16";
  if (channels != kChannels || p.C != kReduced || p.K != kReduced) {
    return "bottleneck_block needs 256 channels, reduced to 64: all filters stay in shared memory";
  }
  if (!limits.aligned) {
    return "bottleneck_block needs operands that start at multiples of 16 bytes";
  }
  if (plan_conv(ConvOp::kFprop, p, dtype, limits).path != ConvPath::kHalo) {
    return "bottleneck_block needs a 3x3 that conv_fprop would compute from halos, too, whose sums "
           "it has";
  }
  const int64_t strips = (int64_t(p.W) - 1) / BlockStrips::kColumns + 1;
  if (3 * BlockStrips::kBoxColumns * strips > 4 * int64_t(p.W)) {
    return "bottleneck_block needs a width that strips of 14 columns fill to three quarters";
  }
  return p.output_pixels() > INT32_MAX ? "bottleneck_block needs fewer than 2^31 pixels" : nullptr;
}

}  // namespace

ConvPlan plan_bottleneck_block(const Conv2dProblem& p, int32_t channels, DType dtype,
                               const PlanLimits& limits) {
  ConvPlan plan{};
  plan.generation = Generation::kSm90;
  plan.path = ConvPath::kHalo;
  plan.kernel = "bottleneck_block_sm90_halo";
  plan.why = "reduce, 3x3 and expand in one kernel: what lies between them never leaves it";
  plan.groups = plan.splits = 1;
  plan.tile_m = kRows;
  plan.tile_n = channels;
  plan.tile_k = kReduced;
  plan.depth_per_split = channels;
  plan.column_tiles = 1;
  const BlockStrips strips(p.N, p.H, p.W, limits.device.multiprocessors * kWarpgroups);
  plan.grid[0] = (strips.count - 1) / kWarpgroups + 1;
  plan.grid[1] = plan.grid[2] = 1;
  const int64_t filters = 2 * int64_t(channels) * p.K + p.weight_size();
  plan.macs = p.output_pixels() * filters;
  plan.bytes = (2 * p.output_pixels() * channels + filters) * int64_t(size_of(dtype));
  plan.error = why_not_bottleneck_block(p, channels, dtype, limits);
  return plan;
}

}  // namespace rnc
