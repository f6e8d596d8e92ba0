#include <tuple>

#include "bindings/conv_geometry.h"
#include "bindings/normalise_on_load.h"
#include "bindings/register.h"
#include "bindings/residual.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor, Tensor> conv_fprop(
    const Tensor& x, const Tensor& weight, const OptionalTensor& x_scale,
    const OptionalTensor& x_bias, const OptionalTensor& scale, const OptionalTensor& bias,
    const OptionalTensor& residual, bool relu, const Sizes& stride, const Sizes& padding,
    const Sizes& dilation, int64_t groups, bool statistics, const OptionalTensor& x_floor,
    const OptionalTensor& residual_scale, bool mask, int64_t residual_stride) {
  const Arguments args("conv_fprop", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Shape weight_shape = args.weight("weight", weight);
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {stride, padding, dilation, groups});
  const Shape y_shape = output_shape(problem);
  const NormaliseOnLoadArguments on_load{x_scale, x_bias, x_floor};
  on_load.check(args, "x", problem.C);
  args.accumulators("scale", scale, {problem.K});
  args.accumulators("bias", bias, {problem.K});
  const ResidualSampling sampling = check_residual(args, residual, residual_stride, y_shape);
  args.require(sampling.is_dense() || !x_scale,
               "residual is sampled and x_scale is given, expected at most one");
  args.require(residual || !residual_scale,
               "residual is None, expected a tensor because residual_scale is given");
  args.accumulators("residual_scale", residual_scale, {problem.K});
  args.require(!statistics || !(scale || bias || residual || relu || mask),
               "statistics is True, expected scale, bias and residual None, relu and mask False: "
               "the statistics are those of the raw output");
  args.require(!mask || problem.filters_per_group() % 8 == 0, "mask is True with ",
               problem.filters_per_group(),
               " filters in each group of weight, expected a multiple of 8: a byte of bits "
               "belongs to 8 channels");
  const Tensor y = args.new_activation(y_shape);
  const Tensor partials = statistics
                              ? args.new_accumulators({stats_tiles(y_shape.pixels()), 2, problem.K})
                              : args.no_accumulators();
  const Tensor bits = mask ? args.new_bit_mask(y_shape.size()) : args.no_bytes();

  Stage stage(args);
  ConvFpropParams params{};
  params.problem = problem;
  params.x = stage.in("x", x);
  params.weight = stage.in("weight", weight);
  params.y = stage.out("y", y);
  on_load.stage_x(stage, params);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.residual = stage.in("residual", residual);
  params.residual_scale = stage.in("residual_scale", residual_scale);
  params.residual_sampling = sampling;
  params.mask = static_cast<uint8_t*>(stage.out("mask", bits));
  params.partials = stage.out("partials", partials);
  params.relu = relu;
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::conv_fprop, params);
  return {y, partials, bits};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_conv_fprop(Tensor x, Tensor weight, Tensor? x_scale, Tensor? x_bias, Tensor? scale, "
      "Tensor? bias, Tensor? residual, bool relu, int[2] stride, int[2] padding, int[2] dilation, "
      "int groups, bool statistics, *, Tensor? x_floor=None, Tensor? residual_scale=None, "
      "bool mask=False, int residual_stride=1) -> (Tensor y, Tensor partials, Tensor mask)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_conv_fprop", TORCH_BOX(&conv_fprop)); }

}  // namespace rnc::bindings
