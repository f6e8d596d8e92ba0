// The Hopper main loops of fprop and dgrad as they are shipped, with everything that synchronises
// around it: what tests/mutation deletes from.
#include "planned.h"

namespace rnc {
namespace {

using T = bfloat16;
using OnHopper = Mainloops<Generation::kSm90>;

// With batch norm's statistics.
// buffers: result, partials, ...
template <class Mainloop>
Status with_statistics(const LaunchArguments& arguments, ConvOp op, const Conv2dProblem& problem,
                       const typename Mainloop::Params& operands) {
  const ConvPlan plan = plan_of<Mainloop>("with_statistics", op, problem);
  const StoreWithBnStats<T> epilogue{arguments.buffer<T>(0), arguments.buffer<float>(1),
                                     problem.gemm_n(op), false};
  return launch_gemm<Mainloop>(plan, gemm_shape(plan, op, problem), operands, epilogue, nullptr);
}

using Filter = FilterRows<T>;
template <class Prologue>
using Large = OnHopper::Of<Sm90LargeTile, WindowRows<T, Prologue>, Filter>;
template <class Prologue>
using Halo = OnHopper::Halo<WindowRows<T, Prologue>, Filter>;

// A convolution with windows of 3 x 3.
// buffers: y, partials, x, weight, ...; numbers: height, width, channels, filters
template <template <class> class Mainloop, class Prologue>
Status convolution(const LaunchArguments& arguments, const Prologue& prologue) {
  using Window = WindowRows<T, Prologue>;
  const Conv2dProblem problem = same_size_problem(arguments.number(0), arguments.number(1),
                                                  arguments.number(2), arguments.number(3), 3);
  return with_statistics<Mainloop<Prologue>>(
      arguments, ConvOp::kFprop, problem,
      {Window::of_input(arguments.buffer<const T>(2), prologue, problem),
       Filter(arguments.buffer<const T>(3), problem)});
}

template <template <class> class Mainloop>
Status conv_with_statistics(const LaunchArguments& arguments) {
  return convolution<Mainloop>(arguments, Identity<T>{});
}

// buffers: ..., scale, bias
template <template <class> class Mainloop>
Status normalised_conv_with_statistics(const LaunchArguments& arguments) {
  return convolution<Mainloop>(arguments, ScaleBiasRelu<T>{arguments.buffer<const float>(4),
                                                           arguments.buffer<const float>(5)});
}

// The gradient of a 1x1 convolution's input, where a ReLU's bits let it through.
// buffers: dx, partials, dz, weight, bits; numbers: pixels, channels, filters
Status gated_input_gradient(const LaunchArguments& arguments) {
  using Gradient = PixelRows<T, BitGate<T>>;
  using Columns = FilterColumns<T>;
  const Conv2dProblem problem =
      same_size_problem(1, arguments.number(0), arguments.number(1), arguments.number(2), 1);
  return with_statistics<OnHopper::Of<Sm90NarrowTile, Gradient, Columns>>(
      arguments, ConvOp::kDgrad, problem,
      {Gradient::of_output(arguments.buffer<const T>(2),
                           BitGate<T>{arguments.buffer<const uint8_t>(4), problem.y_size() / 8},
                           problem),
       Columns(arguments.buffer<const T>(3), GradientClass(problem, 0), problem)});
}

const KernelRegistration kRegistrations[] = {
    {"hopper_conv_with_statistics", conv_with_statistics<Large>},
    {"hopper_normalised_conv_with_statistics", normalised_conv_with_statistics<Large>},
    {"hopper_halo_with_statistics", conv_with_statistics<Halo>},
    {"hopper_normalised_halo_with_statistics", normalised_conv_with_statistics<Halo>},
    {"hopper_gated_input_gradient", gated_input_gradient},
};

}  // namespace
}  // namespace rnc
