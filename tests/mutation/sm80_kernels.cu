// The Ampere main loops as they are shipped, with everything that synchronises around them: what
// tests/mutation deletes from.
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

const KernelRegistration kRegistrations[] = {
    {"normalised_conv_with_statistics", normalised_conv_with_statistics<Copied, bfloat16>},
    {"normalised_conv_with_statistics_tf32", normalised_conv_with_statistics<Copied, float>},
    {"normalised_weight_gradient_tf32", normalised_weight_gradient<Copied, float>},
    {"gathered_conv_with_statistics", normalised_conv_with_statistics<Gathered, bfloat16>},
    {"gathered_weight_gradient", normalised_weight_gradient<Gathered, bfloat16>},
};

}  // namespace
}  // namespace rnc
