#include <tuple>

#include "bindings/conv_geometry.h"
#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> conv_fprop(const Tensor& x, const Tensor& weight,
                                      const OptionalTensor& x_scale, const OptionalTensor& x_bias,
                                      const OptionalTensor& scale, const OptionalTensor& bias,
                                      const OptionalTensor& residual, bool relu,
                                      const Sizes& stride, const Sizes& padding,
                                      const Sizes& dilation, int64_t groups, bool statistics) {
  const Arguments args("conv_fprop", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Shape weight_shape = args.weight("weight", weight);
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {stride, padding, dilation, groups});
  const Shape y_shape = output_shape(problem);
  args.together("x_scale", x_scale, "x_bias", x_bias);
  args.accumulators("x_scale", x_scale, {problem.C});
  args.accumulators("x_bias", x_bias, {problem.C});
  args.accumulators("scale", scale, {problem.K});
  args.accumulators("bias", bias, {problem.K});
  args.activation("residual", residual, y_shape);
  args.require(!statistics || !(scale || bias || residual || relu),
               "statistics is True, expected scale, bias and residual None and relu False: the "
               "statistics are those of the raw output");
  const Tensor y = args.new_activation(y_shape);
  const Tensor partials = statistics
                              ? args.new_accumulators({stats_tiles(y_shape.pixels()), 2, problem.K})
                              : args.no_accumulators();

  Stage stage(args);
  ConvFpropParams params{};
  params.problem = problem;
  params.x = stage.in("x", x);
  params.weight = stage.in("weight", weight);
  params.y = stage.out("y", y);
  params.x_scale = stage.in("x_scale", x_scale);
  params.x_bias = stage.in("x_bias", x_bias);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.residual = stage.in("residual", residual);
  params.partials = stage.out("partials", partials);
  params.relu = relu;
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::conv_fprop, params);
  return {y, partials};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_conv_fprop(Tensor x, Tensor weight, Tensor? x_scale, Tensor? x_bias, Tensor? scale, "
      "Tensor? bias, Tensor? residual, bool relu, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool statistics) -> (Tensor y, Tensor partials)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_conv_fprop", TORCH_BOX(&conv_fprop)); }

}  // namespace rnc::bindings
