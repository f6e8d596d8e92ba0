// A 1x1 convolution with batch norm's statistics, by any main loop.
#pragma once

#include "../device_library/device_library.h"
#include "kernels/conv/implicit_gemm.cuh"
#include "launch/launch_kernel.h"

namespace rnc {

inline uint32_t divide_up(int32_t count, int32_t step) {
  return static_cast<uint32_t>((count + step - 1) / step);
}

// buffers: y, partials, x, weight; numbers: pixels, channels, filters
template <class Mainloop, class T, class Prologue>
Status pointwise_with_statistics(const LaunchArguments& arguments, const Prologue& prologue) {
  using Epilogue = StoreWithBnStats<T>;
  const int32_t pixels = arguments.number(0), channels = arguments.number(1),
                filters = arguments.number(2);
  Conv2dProblem problem = {};
  problem.N = pixels;
  problem.H = problem.W = problem.P = problem.Q = problem.R = problem.S = 1;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  problem.groups = 1;
  problem.C = channels;
  problem.K = filters;
  const uint32_t column_tiles = divide_up(filters, Mainloop::kColumns);
  const GemmShape shape = {
      pixels, filters, channels, 1, 1, channels, 0, filters, FastDivmod(int32_t(column_tiles)), 0};
  const Epilogue epilogue = {arguments.buffer<T>(0), arguments.buffer<AccOf<T>>(1), filters, false};
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> params{
      {{shape,
        {PixelRows<T, Prologue>::of_input(arguments.buffer<const T>(2), prologue, problem),
         FilterRows<T>(arguments.buffer<const T>(3), filters, channels)},
        {}}},
      epilogue};
  return launch_kernel(
      "conv_with_statistics", implicit_gemm_kernel<Mainloop, DenseRows, 1, Epilogue>,
      Dim3{divide_up(pixels, Mainloop::kRows) * column_tiles, 1, 1}, Dim3{Mainloop::kThreads, 1, 1},
      sizeof(ImplicitGemmStorage<Mainloop, Epilogue>), nullptr, params);
}

}  // namespace rnc
