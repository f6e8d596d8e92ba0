// Launches of the Hopper kernels as from a plan: with the shipped launchers.
#pragma once

#include "../device_library/device_library.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

// What launchers read of a plan.
template <class Mainloop>
ConvPlan plan_of(const char* name, ConvOp op, const Conv2dProblem& problem, int32_t splits = 1) {
  const auto steps = [](int64_t count, int64_t step) { return (count + step - 1) / step; };
  ConvPlan plan{};
  plan.generation = Generation::kSm90;
  plan.kernel = name;
  plan.groups = 1;
  plan.tile_m = Mainloop::kRows;
  plan.tile_n = Mainloop::kColumns;
  plan.tile_k = kBoxChannels<bfloat16>;
  plan.splits = splits;
  plan.depth_per_split = int32_t(steps(steps(problem.gemm_k(op), splits), kBoxChannels<bfloat16>) *
                                 kBoxChannels<bfloat16>);
  plan.column_tiles = steps(problem.gemm_n(op), Mainloop::kColumns);
  plan.grid[0] = steps(problem.gemm_m(op), Mainloop::kRows) * plan.column_tiles;
  plan.grid[1] = splits;
  plan.grid[2] = 1;
  return plan;
}

// A convolution of one image with stride 1 that keeps its size.
inline Conv2dProblem same_size_problem(int32_t height, int32_t width, int32_t channels,
                                       int32_t filters, int32_t taps) {
  Conv2dProblem problem = {};
  problem.N = problem.groups = 1;
  problem.H = problem.P = height;
  problem.W = problem.Q = width;
  problem.C = channels;
  problem.K = filters;
  problem.R = problem.S = taps;
  problem.pad_h = problem.pad_w = taps / 2;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  return problem;
}

// buffers: what undoes batch norm, from `first` on: y, coefficients, gate scale, gate bias.
template <class T>
BnBackward<T> bn_backward(const LaunchArguments& arguments, int first, int32_t filters) {
  return {arguments.buffer<const T>(first), arguments.buffer<const float>(first + 1),
          arguments.buffer<const float>(first + 2), arguments.buffer<const float>(first + 3),
          filters};
}

}  // namespace rnc
