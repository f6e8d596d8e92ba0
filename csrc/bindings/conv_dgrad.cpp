#include <tuple>

#include "bindings/bn_backward_on_load.h"
#include "bindings/conv_geometry.h"
#include "bindings/register.h"
#include "bindings/residual.h"
#include "bindings/stage.h"
#include "launch/plan.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> conv_dgrad(
    const Tensor& dy, const Tensor& weight, const Sizes& input_size, const OptionalTensor& addend,
    const OptionalTensor& act, const OptionalTensor& act_scale, const OptionalTensor& act_bias,
    const OptionalTensor& act_mean, const Sizes& stride, const Sizes& padding,
    const Sizes& dilation, int64_t groups, const OptionalTensor& y,
    const OptionalTensor& coefficients, const OptionalTensor& gate_scale,
    const OptionalTensor& gate_bias, const OptionalTensor& addend_mask, int64_t addend_stride) {
  const Arguments args("conv_dgrad", "dy", dy);
  const Shape weight_shape = args.weight("weight", weight);
  const Shape x_shape = args.sizes("input_size", input_size);
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {stride, padding, dilation, groups});
  args.activation("dy", dy, output_shape(problem));
  const BnBackwardArguments on_load{y, coefficients, gate_scale, gate_bias};
  on_load.check(args, output_shape(problem));
  const int32_t addend_channels = check_addend(args, addend, addend_mask, addend_stride, x_shape);
  args.require(!addend_mask || problem.channels_per_group() % 8 == 0, "addend_mask is given with ",
               problem.channels_per_group(),
               " channels in each group of weight, expected a multiple of 8");
  args.together("act", act, "act_scale", act_scale);
  args.together("act", act, "act_bias", act_bias);
  args.require(act || !act_mean, "act is None, expected a tensor because act_mean is given");
  args.activation("act", act, x_shape);
  args.accumulators("act_scale", act_scale, {problem.C});
  args.accumulators("act_bias", act_bias, {problem.C});
  args.accumulators("act_mean", act_mean, {problem.C});
  const Tensor dx = args.new_activation(x_shape);
  const Tensor partials =
      act_mean ? args.new_accumulators({conv_dgrad_stats_tiles(problem), 2, problem.C})
               : args.no_accumulators();

  Stage stage(args);
  ConvDgradParams params{};
  params.problem = problem;
  params.dy = stage.in("dy", dy);
  params.on_load = on_load.stage(stage);
  params.weight = stage.in("weight", weight);
  params.dx = stage.out("dx", dx);
  params.addend = stage.in("addend", addend);
  params.addend_mask = static_cast<const uint8_t*>(stage.in("addend_mask", addend_mask));
  params.addend_C = addend_channels;
  params.addend_stride = int32_t(addend_stride);
  params.act = stage.in("act", act);
  params.act_scale = stage.in("act_scale", act_scale);
  params.act_bias = stage.in("act_bias", act_bias);
  params.act_mean = stage.in("act_mean", act_mean);
  params.partials = stage.out("partials", partials);
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::conv_dgrad, params);
  return {dx, partials};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_conv_dgrad(Tensor dy, Tensor weight, SymInt[] input_size, Tensor? addend, Tensor? act, "
      "Tensor? act_scale, Tensor? act_bias, Tensor? act_mean, int[2] stride, int[2] padding, "
      "int[2] dilation, int groups, " RNC_BN_BACKWARD_SCHEMA
      ", Tensor? addend_mask=None, int addend_stride=1) -> (Tensor dx, Tensor partials)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_conv_dgrad", TORCH_BOX(&conv_dgrad)); }

}  // namespace rnc::bindings
