// The Hopper main loop that sums over pixels as it is shipped, with everything that synchronises
// around it: what tests/mutation deletes from.
#include "planned.h"

namespace rnc {
namespace {

using T = bfloat16;
template <class Gradient, class Activation, bool kSumsRows = false>
using Product = Mainloops<Generation::kSm90>::Product<Sm90SingleTile, Transposed<Gradient>,
                                                      Transposed<Activation>, kSumsRows>;

// The gradient of a 1x1 convolution's weight, through batch norm and ReLU, and from an activation
// that is normalised.
// buffers: dweight, dz, x, scale, bias, y, coefficients, gate scale, gate bias; numbers: pixels,
// channels, filters
Status weight_gradient_on_load(const LaunchArguments& arguments) {
  using Gradient = PixelRows<T, BnBackward<T>>;
  using Activation = PixelRows<T, ScaleBiasRelu<T>>;
  using Mainloop = Product<Gradient, Activation>;
  const Conv2dProblem problem =
      same_size_problem(1, arguments.number(0), arguments.number(1), arguments.number(2), 1);
  const ConvPlan plan = plan_of<Mainloop>("weight_gradient", ConvOp::kWgrad, problem);
  const StorePartial<T> epilogue{arguments.buffer<float>(0), problem.weight_size(), problem.C,
                                 false};
  const Gradient gradient = Gradient::of_output(arguments.buffer<const T>(1),
                                                bn_backward<T>(arguments, 5, problem.K), problem);
  const Activation activation = Activation::of_input(
      arguments.buffer<const T>(2),
      {arguments.buffer<const float>(3), arguments.buffer<const float>(4)}, problem);
  return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kWgrad, problem),
                               {Transposed(gradient), Transposed(activation)}, epilogue, nullptr);
}

// The Gram matrix in parts of the pixels, one tile each, and the sums of the channels. The shipped
// ones normalise on load, and the fence behind that would hide the one behind the ones.
// buffers: parts [parts][channels^2 + channels], x; numbers: pixels, channels, parts
Status gram_parts(const LaunchArguments& arguments) {
  using Activation = PixelRows<T, Identity<T>>;
  using Mainloop = Product<Activation, Activation, true>;
  const int32_t channels = arguments.number(1);
  const Conv2dProblem problem = same_size_problem(1, arguments.number(0), channels, channels, 1);
  const ConvPlan plan =
      plan_of<Mainloop>("gram_parts", ConvOp::kWgrad, problem, arguments.number(2));
  const Transposed activation(Activation::of_input(arguments.buffer<const T>(1), {}, problem));
  float* parts = arguments.buffer<float>(0);
  const int64_t size = problem.weight_size();
  const StorePartialWithRowSums<T> epilogue{
      {parts, size + channels, channels, false}, parts + size, true};
  return launch_gemm<Mainloop>(plan, gemm_shape(plan, ConvOp::kWgrad, problem),
                               {activation, activation}, epilogue, nullptr);
}

const KernelRegistration kRegistrations[] = {
    {"hopper_weight_gradient_on_load", weight_gradient_on_load},
    {"hopper_gram_parts", gram_parts},
};

}  // namespace
}  // namespace rnc
