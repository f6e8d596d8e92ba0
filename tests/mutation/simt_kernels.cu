// The shipped kernels that synchronise, each once, in float: what tests/mutation deletes from.
#include "../device_library/device_library.h"
#include "kernels/batch_norm/batch_norm_finalize.cuh"
#include "kernels/bottleneck/pixel_product.cuh"
#include "kernels/conv/direct/depthwise.cuh"
#include "kernels/conv/simt/mainloop.cuh"
#include "kernels/pool/global_avg_pool.cuh"
#include "launch/launch_kernel.h"
#include "pointwise.h"

namespace rnc {
namespace {

// A 1x1 convolution with batch norm's statistics.
// buffers: y, partials, x, weight; numbers: pixels, channels, filters
Status conv_with_statistics(const LaunchArguments& arguments) {
  using Mainloop = SimtMainloop<PixelRows<float, Identity<float>>, FilterRows<float>>;
  return pointwise_with_statistics<Mainloop, float>(arguments, Identity<float>{});
}

// A depthwise convolution along a row of pixels, as long as the row.
// buffers: y, partials, x, weight; numbers: pixels, channels, taps (odd)
Status depthwise_conv_with_statistics(const LaunchArguments& arguments) {
  using Window = WindowRows<float, Identity<float>>;
  using Filter = FilterRows<float>;
  const int32_t pixels = arguments.number(0), channels = arguments.number(1),
                taps = arguments.number(2);
  Conv2dProblem problem = {};
  problem.N = problem.H = problem.P = problem.R = 1;
  problem.W = problem.Q = pixels;
  problem.S = taps;
  problem.pad_w = taps / 2;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  problem.C = problem.K = channels;
  problem.groups = 1;
  return matrix_with_statistics<DepthwiseMainloop<Window, Filter>, float>(
      arguments, {pixels, channels, taps * channels},
      {Window::of_input(arguments.buffer<const float>(2), {}, problem),
       Filter(arguments.buffer<const float>(3), channels, channels, taps)});
}

// buffers: mean, invstd, scale, bias, partials, gamma, beta; numbers: rows, tiles, channels
Status bn_finalize(const LaunchArguments& arguments) {
  BnFinalizeKernelParams<float> params = {};
  params.mean = arguments.buffer<float>(0);
  params.invstd = arguments.buffer<float>(1);
  params.scale = arguments.buffer<float>(2);
  params.bias = arguments.buffer<float>(3);
  params.partials = arguments.buffer<const float>(4);
  params.gamma = arguments.buffer<const float>(5);
  params.beta = arguments.buffer<const float>(6);
  params.rows = arguments.number(0);
  params.tiles = arguments.number(1);
  params.C = arguments.number(2);
  params.eps = 1e-5;
  return launch_kernel("bn_finalize", bn_finalize_kernel<float>,
                       Dim3{divide_up(params.C, FinalizeTile::kChannels), 1, 1},
                       Dim3{FinalizeTile::kThreads, 1, 1}, sizeof(FinalizeStorage), nullptr, params,
                       {}, 1, Start::kEarly);
}

// buffers: dgamma, dbeta, coefficients, partials, gamma, mean, invstd; numbers: rows, tiles,
// channels
Status bn_backward_finalize(const LaunchArguments& arguments) {
  BnBackwardFinalizeKernelParams<float> params = {};
  params.dgamma = arguments.buffer<float>(0);
  params.dbeta = arguments.buffer<float>(1);
  params.coefficients = arguments.buffer<float>(2);
  params.partials = arguments.buffer<const float>(3);
  params.gamma = arguments.buffer<const float>(4);
  params.mean = arguments.buffer<const float>(5);
  params.invstd = arguments.buffer<const float>(6);
  params.rows = arguments.number(0);
  params.tiles = arguments.number(1);
  params.C = arguments.number(2);
  params.training = true;
  return launch_kernel("bn_backward_finalize", bn_backward_finalize_kernel<float>,
                       Dim3{divide_up(params.C, FinalizeTile::kChannels), 1, 1},
                       Dim3{FinalizeTile::kThreads, 1, 1}, sizeof(FinalizeStorage), nullptr, params,
                       {}, 1, Start::kEarly);
}

// buffers: sum, parts; numbers: elements, parts
Status sum_splits(const LaunchArguments& arguments) {
  const SumSplitsParams<float> params = {arguments.buffer<const float>(1),
                                         arguments.buffer<float>(0), arguments.number(0),
                                         arguments.number(1)};
  return launch_kernel("sum_splits", sum_splits_kernel<float>,
                       Dim3{divide_up(params.size, kSumSplitsThreads), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, nullptr, params, {}, 1, Start::kEarly);
}

// buffers: product, sums, parts; numbers: rows, columns, parts
Status sum_products(const LaunchArguments& arguments) {
  const SumProductsParams<float> params = {arguments.buffer<const float>(2),
                                           arguments.buffer<double>(0),
                                           arguments.buffer<double>(1),
                                           arguments.number(0),
                                           arguments.number(1),
                                           arguments.number(2),
                                           false};
  return launch_kernel("sum_products", sum_products_kernel<float>,
                       Dim3{divide_up(params.rows * (params.columns + 1), kSumSplitsThreads), 1, 1},
                       Dim3{kSumSplitsThreads, 1, 1}, 0, nullptr, params, {}, 1, Start::kEarly);
}

// buffers: y, x; numbers: images, pixels, channels
Status global_avg_pool(const LaunchArguments& arguments) {
  const GlobalAvgPoolForwardKernelParams<float> params = {arguments.number(1), arguments.number(2),
                                                          arguments.buffer<const float>(1),
                                                          arguments.buffer<float>(0)};
  const Dim3 grid = {arguments.number<uint32_t>(0), divide_up(params.C, PoolTile::kChannels), 1};
  return launch_kernel("global_avg_pool", global_avg_pool_forward_kernel<float>, grid,
                       Dim3{PoolTile::kThreads, 1, 1}, sizeof(GlobalAvgPoolStorage<float>), nullptr,
                       params);
}

const KernelRegistration kRegistrations[] = {
    {"conv_with_statistics", conv_with_statistics},
    {"depthwise_conv_with_statistics", depthwise_conv_with_statistics},
    {"bn_finalize", bn_finalize},
    {"bn_backward_finalize", bn_backward_finalize},
    {"sum_splits", sum_splits},
    {"sum_products", sum_products},
    {"global_avg_pool", global_avg_pool},
};

}  // namespace
}  // namespace rnc
