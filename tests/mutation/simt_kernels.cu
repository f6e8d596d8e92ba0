// The shipped kernels that synchronise, each once, in float: what tests/mutation deletes from.
#include "../device_library/device_library.h"
#include "kernels/batch_norm/batch_norm_finalize.cuh"
#include "kernels/conv/implicit_gemm.cuh"
#include "kernels/pool/global_avg_pool.cuh"
#include "launch/launch_kernel.h"
#include "tile/im2col.cuh"

namespace rnc {
namespace {

uint32_t divide_up(int32_t count, int32_t step) {
  return static_cast<uint32_t>((count + step - 1) / step);
}

// A 1x1 convolution with batch norm's statistics.
// buffers: y, partials, x, weight; numbers: pixels, channels, filters
Status conv_with_statistics(const LaunchArguments& arguments) {
  using Operand = PixelRows<float, Identity<float>>;
  using Epilogue = StoreWithBnStats<float>;
  const int32_t pixels = arguments.number(0), channels = arguments.number(1),
                filters = arguments.number(2);
  Conv2dProblem problem = {};
  problem.N = pixels;
  problem.H = problem.W = problem.P = problem.Q = problem.R = problem.S = 1;
  problem.stride_h = problem.stride_w = problem.dilation_h = problem.dilation_w = 1;
  problem.groups = 1;
  problem.C = channels;
  problem.K = filters;
  const auto x = Operand::of_input(arguments.buffer<const float>(2), Identity<float>{}, problem);
  const FilterRows<float> weight(arguments.buffer<const float>(3), filters, channels);
  const GemmShape shape = {pixels, filters, channels, 1, 1, channels, 0, filters};
  const Epilogue epilogue = {arguments.buffer<float>(0), arguments.buffer<float>(1), filters};
  return launch_kernel(
      "conv_with_statistics", implicit_gemm_kernel<Operand, FilterRows<float>, Epilogue>,
      Dim3{divide_up(pixels, SimtTile::kRows), divide_up(filters, SimtTile::kColumns), 1},
      Dim3{SimtTile::kThreads, 1, 1}, sizeof(ImplicitGemmStorage<float, Epilogue>), nullptr,
      ImplicitGemmParams<Operand, FilterRows<float>, Epilogue>{shape, x, weight, epilogue});
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
                       Dim3{FinalizeTile::kThreads, 1, 1}, sizeof(FinalizeStorage), nullptr,
                       params);
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
    {"bn_finalize", bn_finalize},
    {"global_avg_pool", global_avg_pool},
};

}  // namespace
}  // namespace rnc
