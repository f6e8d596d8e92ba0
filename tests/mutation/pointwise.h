// Convolutions by any main loop, most of them 1x1.
#pragma once

#include "../device_library/device_library.h"
#include "kernels/conv/implicit_gemm.cuh"
#include "launch/launch_kernel.h"

namespace rnc {

inline uint32_t divide_up(int32_t count, int32_t step) {
  return static_cast<uint32_t>((count + step - 1) / step);
}

// One image for each pixel.
inline Conv2dProblem pointwise_problem(int32_t pixels, int32_t channels, int32_t filters) {
  Conv2dProblem problem = {};
  problem.N = pixels;
  problem.H = problem.W = problem.P = problem.Q = problem.R = problem.S = 1;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  problem.groups = 1;
  problem.C = channels;
  problem.K = filters;
  return problem;
}

struct MatrixSizes {
  int32_t rows, columns, depth;
};

template <class Mainloop, class Epilogue>
Status launch_matrix(const char* name, const MatrixSizes& sizes,
                     const typename Mainloop::Params& operands, const Epilogue& epilogue) {
  const auto [rows, columns, depth] = sizes;
  const uint32_t column_tiles = divide_up(columns, Mainloop::kColumns);
  const GemmShape shape = {
      rows, columns, depth, 1, 1, depth, 0, columns, FastDivmod(int32_t(column_tiles)),
      0,    false,   false};
  const ImplicitGemmParams<Mainloop, DenseRows, 1, Epilogue> params{{{shape, operands, {}}},
                                                                    epilogue};
  return launch_kernel(name, implicit_gemm_kernel<Mainloop, DenseRows, 1, Epilogue>,
                       Dim3{divide_up(rows, Mainloop::kRows) * column_tiles, 1, 1},
                       Dim3{Mainloop::kThreads, 1, 1},
                       sizeof(ImplicitGemmStorage<Mainloop, Epilogue>), nullptr, params);
}

// With batch norm's statistics.
// buffers: y, partials, ...
template <class Mainloop, class T>
Status matrix_with_statistics(const LaunchArguments& arguments, const MatrixSizes& sizes,
                              const typename Mainloop::Params& operands) {
  const StoreWithBnStats<T> epilogue = {arguments.buffer<T>(0), arguments.buffer<AccOf<T>>(1),
                                        sizes.columns, false};
  return launch_matrix<Mainloop>("conv_with_statistics", sizes, operands, epilogue);
}

// A 1x1 convolution.
// buffers: y, partials, x, weight; numbers: pixels, channels, filters
template <class Mainloop, class T, class Prologue>
Status pointwise_with_statistics(const LaunchArguments& arguments, const Prologue& prologue) {
  const int32_t pixels = arguments.number(0), channels = arguments.number(1),
                filters = arguments.number(2);
  const Conv2dProblem problem = pointwise_problem(pixels, channels, filters);
  return matrix_with_statistics<Mainloop, T>(
      arguments, {pixels, filters, channels},
      {PixelRows<T, Prologue>::of_input(arguments.buffer<const T>(2), prologue, problem),
       FilterRows<T>(arguments.buffer<const T>(3), problem)});
}

}  // namespace rnc
