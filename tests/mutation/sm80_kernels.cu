// The Ampere main loop as it is shipped, with everything that synchronises around it: what
// tests/mutation deletes from.
#include "kernels/conv/sm80/mainloop.cuh"
#include "pointwise.h"

namespace rnc {
namespace {

// buffers: y, partials, x, weight, scale, bias; numbers: pixels, channels, filters
template <class T>
Status normalised_conv_with_statistics(const LaunchArguments& arguments) {
  using Prologue = ScaleBiasRelu<T>;
  using Mainloop = Sm80Mainloop<Sm80NarrowTile, PixelRows<T, Prologue>, FilterRows<T>>;
  const Prologue prologue{arguments.buffer<const float>(4), arguments.buffer<const float>(5)};
  return pointwise_with_statistics<Mainloop, T>(arguments, prologue);
}

// Floats whose rows are contiguous, loaded one by one.
// buffers: dweight, dy, x, scale, bias; numbers: pixels, channels, filters
Status normalised_weight_gradient(const LaunchArguments& arguments) {
  using Prologue = ScaleBiasRelu<float>;
  using Gradient = Transposed<PixelRows<float, Identity<float>>>;
  using Activation = Transposed<PixelRows<float, Prologue>>;
  using Mainloop = Sm80Mainloop<Sm80NarrowTile, Gradient, Activation>;
  const Conv2dProblem problem =
      pointwise_problem(arguments.number(0), arguments.number(1), arguments.number(2));
  const Prologue prologue{arguments.buffer<const float>(3), arguments.buffer<const float>(4)};
  const Gradient gradient(
      PixelRows<float, Identity<float>>::of_output(arguments.buffer<const float>(1), {}, problem));
  const Activation activation(
      PixelRows<float, Prologue>::of_input(arguments.buffer<const float>(2), prologue, problem));
  const StorePartial<float> epilogue{arguments.buffer<float>(0), problem.weight_size(), problem.C,
                                     false};
  return launch_matrix<Mainloop>("weight_gradient", {problem.K, problem.C, problem.N},
                                 {gradient, activation}, epilogue);
}

const KernelRegistration kRegistrations[] = {
    {"normalised_conv_with_statistics", normalised_conv_with_statistics<bfloat16>},
    {"normalised_conv_with_statistics_tf32", normalised_conv_with_statistics<float>},
    {"normalised_weight_gradient_tf32", normalised_weight_gradient},
};

}  // namespace
}  // namespace rnc
