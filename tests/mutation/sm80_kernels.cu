// The Ampere main loops as they are shipped, with everything that synchronises around them: what
// tests/mutation deletes from.
#include "kernels/conv/conv_max_pool.cuh"
#include "kernels/conv/sm80/gathered.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "pointwise.h"

namespace rnc {
namespace {

template <class OperandA, class OperandB>
using Copied = Sm80Mainloop<Sm80NarrowTile, OperandA, OperandB>;
template <class OperandA, class OperandB>
using Gathered = Sm80GatheredMainloop<Sm80NarrowTile, OperandA, OperandB>;

// buffers: y, partials, x, weight, scale, bias; numbers: pixels, channels, filters
template <template <class, class> class Mainloop, class T>
Status normalised_conv_with_statistics(const LaunchArguments& arguments) {
  using Prologue = ScaleBiasRelu<T>;
  const Prologue prologue{arguments.buffer<const float>(4), arguments.buffer<const float>(5)};
  return pointwise_with_statistics<Mainloop<PixelRows<T, Prologue>, FilterRows<T>>, T>(arguments,
                                                                                       prologue);
}

// Operands whose rows are contiguous.
// buffers: dweight, dy, x, scale, bias; numbers: pixels, channels, filters
template <template <class, class> class Mainloop, class T>
Status normalised_weight_gradient(const LaunchArguments& arguments) {
  using Prologue = ScaleBiasRelu<T>;
  using Gradient = Transposed<PixelRows<T, Identity<T>>>;
  using Activation = Transposed<PixelRows<T, Prologue>>;
  const Conv2dProblem problem =
      pointwise_problem(arguments.number(0), arguments.number(1), arguments.number(2));
  const Prologue prologue{arguments.buffer<const float>(3), arguments.buffer<const float>(4)};
  const Gradient gradient(
      PixelRows<T, Identity<T>>::of_output(arguments.buffer<const T>(1), {}, problem));
  const Activation activation(
      PixelRows<T, Prologue>::of_input(arguments.buffer<const T>(2), prologue, problem));
  const StorePartial<T> epilogue{arguments.buffer<float>(0), problem.weight_size(), problem.C,
                                 false};
  return launch_matrix<Mainloop<Gradient, Activation>>(
      "weight_gradient", {problem.K, problem.C, problem.N}, {gradient, activation}, epilogue);
}

// A stem of 7 x 7 with stride 2, and the max-pool behind it.
// buffers: y, x, weight, scale, bias; numbers: pixels along each side, filters
template <class T>
Status pooled_stem(const LaunchArguments& arguments) {
  using Mainloop = Sm80FewChannelsMainloop<Sm80PatchTile, T>;
  Conv2dProblem problem = {};
  problem.N = problem.dilation_h = problem.dilation_w = problem.groups = 1;
  problem.C = problem.pad_h = problem.pad_w = 3;
  problem.R = problem.S = 7;
  problem.stride_h = problem.stride_w = 2;
  problem.H = problem.W = arguments.number(0);
  problem.P = problem.Q = Conv2dProblem::output_size(problem.H, 3, 1, 7, 2);
  problem.K = arguments.number(1);
  const PoolPatches patches(problem);
  const uint32_t column_tiles = divide_up(problem.K, Mainloop::kColumns);
  const ConvMaxPoolKernelParams<Mainloop, T> params{
      {WindowRows<T, Identity<T>>::of_input(arguments.buffer<const T>(1), {}, problem),
       FilterRows<T>(arguments.buffer<const T>(2), problem),
       PixelRuns(problem, Mainloop::kRows, PoolPatches::kColumns)},
      patches,
      FastDivmod(int32_t(column_tiles)),
      problem.K,
      arguments.buffer<const float>(3),
      arguments.buffer<const float>(4),
      arguments.buffer<T>(0),
      false};
  return launch_kernel("pooled_stem", conv_max_pool_kernel<Mainloop, T>,
                       Dim3{uint32_t(patches.count(problem.N)) * column_tiles, 1, 1},
                       Dim3{Mainloop::kThreads, 1, 1}, sizeof(ConvMaxPoolStorage<Mainloop, T>),
                       nullptr, params);
}

const KernelRegistration kRegistrations[] = {
    {"normalised_conv_with_statistics", normalised_conv_with_statistics<Copied, bfloat16>},
    {"normalised_conv_with_statistics_tf32", normalised_conv_with_statistics<Copied, float>},
    {"normalised_weight_gradient_tf32", normalised_weight_gradient<Copied, float>},
    {"gathered_conv_with_statistics", normalised_conv_with_statistics<Gathered, bfloat16>},
    {"pooled_stem", pooled_stem<bfloat16>},
    {"gathered_weight_gradient", normalised_weight_gradient<Gathered, bfloat16>},
};

}  // namespace
}  // namespace rnc
