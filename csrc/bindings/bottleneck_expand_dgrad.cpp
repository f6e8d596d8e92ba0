#include <tuple>

#include "bindings/closed_form.h"
#include "bindings/register.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> bottleneck_expand_dgrad(
    const Tensor& dz, const OptionalTensor& mask, const Tensor& weight, const Tensor& x,
    const OptionalTensor& x_scale, const OptionalTensor& x_bias, const OptionalTensor& x_floor,
    const Tensor& matrix, const Tensor& bias, int64_t stride, const OptionalTensor& act_scale,
    const OptionalTensor& act_bias, const OptionalTensor& act_mean) {
  const Arguments args("bottleneck_expand_dgrad", "dz", dz);
  const Shape x_shape = args.activation("x", x);
  const Conv2dProblem problem = closed_form_problem(args, x_shape, dz, mask, stride);
  const NormaliseOnLoadArguments on_load{x_scale, x_bias, x_floor};
  on_load.check(args, "x", problem.C);
  args.matrix("weight", weight, problem.K, problem.C);
  args.matrix("matrix", matrix, problem.C, problem.C);
  args.accumulators("bias", bias, {problem.C});
  args.together("act_scale", act_scale, "act_bias", act_bias);
  args.require(act_scale || !act_mean,
               "act_scale is None, expected a tensor because act_mean is given");
  args.require(stride == 1 || !act_scale, "act_scale is given with stride ", stride,
               ", expected 1: the gradient of sampled pixels has no ReLU of its own");
  args.accumulators("act_scale", act_scale, {problem.C});
  args.accumulators("act_bias", act_bias, {problem.C});
  args.accumulators("act_mean", act_mean, {problem.C});
  const Shape sampled{problem.N, problem.C, problem.P, problem.Q};
  const Tensor dx = args.new_activation(sampled);
  const Tensor partials = act_mean
                              ? args.new_accumulators({stats_tiles(sampled.pixels()), 2, problem.C})
                              : args.no_accumulators();

  Stage stage(args);
  BottleneckExpandDgradParams params{};
  params.problem = problem;
  params.dz = stage.in("dz", dz);
  params.mask = static_cast<const uint8_t*>(stage.in("mask", mask));
  params.weight = stage.in("weight", weight);
  params.x = stage.in("x", x);
  on_load.stage_x(stage, params);
  params.matrix = stage.in("matrix", matrix);
  params.bias = stage.in("bias", bias);
  params.act_scale = stage.in("act_scale", act_scale);
  params.act_bias = stage.in("act_bias", act_bias);
  params.act_mean = stage.in("act_mean", act_mean);
  params.dx = stage.out("dx", dx);
  params.partials = stage.out("partials", partials);
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::bottleneck_expand_dgrad, params);
  return {dx, partials};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_expand_dgrad(Tensor dz, Tensor? mask, Tensor weight, Tensor x, Tensor? x_scale, "
      "Tensor? x_bias, Tensor? x_floor, Tensor matrix, Tensor bias, int stride, Tensor? act_scale, "
      "Tensor? act_bias, Tensor? act_mean) -> (Tensor dx, Tensor partials)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_expand_dgrad", TORCH_BOX(&bottleneck_expand_dgrad)); }

}  // namespace rnc::bindings
