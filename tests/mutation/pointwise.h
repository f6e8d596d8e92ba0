// Convolutions with batch norm's statistics, by any main loop.
#pragma once

#include "../device_library/device_library.h"
#include "kernels/conv/implicit_gemm.cuh"
#include "launch/launch_kernel.h"

namespace rnc {

inline uint32_t divide_up(int32_t count, int32_t step) {
  return static_cast<uint32_t>((count + step - 1) / step);
}

// D[rows, columns] with its statistics. buffers: y, partials, ...
template <class Mainloop, class T>
Status gemm_with_statistics(const LaunchArguments& arguments, int32_t rows, int32_t columns,
                            int32_t depth, const typename Mainloop::Params& operands) {
  using Epilogue = StoreWithBnStats<T>;
  const uint32_t column_tiles = divide_up(columns, Mainloop::kColumns);
  const GemmShape shape = {
      rows, columns, depth, 1, 1, depth, 0, columns, FastDivmod(int32_t(column_tiles)), 0, false};
  const Epilogue epilogue = {arguments.buffer<T>(0), arguments.buffer<AccOf<T>>(1), columns, false};
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> params{{{shape, operands, {}}},
                                                                    epilogue};
  return launch_kernel(
      "conv_with_statistics", implicit_gemm_kernel<Mainloop, DenseRows, 1, Epilogue>,
      Dim3{divide_up(rows, Mainloop::kRows) * column_tiles, 1, 1}, Dim3{Mainloop::kThreads, 1, 1},
      sizeof(ImplicitGemmStorage<Mainloop, Epilogue>), nullptr, params);
}

// A 1x1 convolution. buffers: y, partials, x, weight; numbers: pixels, channels, filters
template <class Mainloop, class T, class Prologue>
Status pointwise_with_statistics(const LaunchArguments& arguments, const Prologue& prologue) {
  const int32_t pixels = arguments.number(0), channels = arguments.number(1),
                filters = arguments.number(2);
  Conv2dProblem problem = {};
  problem.N = pixels;
  problem.H = problem.W = problem.P = problem.Q = problem.R = problem.S = 1;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  problem.groups = 1;
  problem.C = channels;
  problem.K = filters;
  return gemm_with_statistics<Mainloop, T>(
      arguments, pixels, filters, channels,
      {PixelRows<T, Prologue>::of_input(arguments.buffer<const T>(2), prologue, problem),
       FilterRows<T>(arguments.buffer<const T>(3), filters, channels)});
}

}  // namespace rnc
