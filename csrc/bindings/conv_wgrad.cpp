#include "bindings/bn_backward_on_load.h"
#include "bindings/conv_geometry.h"
#include "bindings/normalise_on_load.h"
#include "bindings/register.h"
#include "bindings/stage.h"
#include "launch/plan.h"

namespace rnc::bindings {
namespace {

// Acc [splits, K R S C / groups]: as many parts as the plan wants or, where memory is short, as
// many as there is room for. Fewer take longer and round differently.
Tensor parts_of_the_sum(const Arguments& args, const Conv2dProblem& problem,
                        const PlanLimits& limits) {
  const int64_t size = problem.weight_size();
  for (int32_t splits = plan_conv(ConvOp::kWgrad, problem, args.dtype(), limits).splits;;
       splits /= 2) {
    try {
      return args.new_accumulators({splits, size});
    } catch (const std::exception& error) {
      args.require(splits > 1, "there is no memory for its workspace, not even for one part of ",
                   size, " accumulators: ", error.what());
    }
  }
}

Tensor conv_wgrad(const Tensor& dy, const Tensor& x, const Sizes& weight_size,
                  const OptionalTensor& x_scale, const OptionalTensor& x_bias, const Sizes& stride,
                  const Sizes& padding, const Sizes& dilation, int64_t groups,
                  const OptionalTensor& y, const OptionalTensor& coefficients,
                  const OptionalTensor& gate_scale, const OptionalTensor& gate_bias,
                  const OptionalTensor& x_floor) {
  const Arguments args("conv_wgrad", "dy", dy);
  const Shape x_shape = args.activation("x", x);
  const Shape weight_shape = args.sizes("weight_size", weight_size);
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {stride, padding, dilation, groups});
  args.activation("dy", dy, output_shape(problem));
  const BnBackwardArguments on_load{y, coefficients, gate_scale, gate_bias};
  on_load.check(args, output_shape(problem));
  const NormaliseOnLoadArguments activation{x_scale, x_bias, x_floor};
  activation.check(args, "x", problem.C);
  const Tensor dweight = args.new_activation(weight_shape);

  Stage stage(args);
  PlanLimits limits;
  limits.allow_tf32 = stage.allows_tf32();
  const Tensor workspace = parts_of_the_sum(args, problem, limits);
  ConvWgradParams params{};
  params.problem = problem;
  params.dy = stage.in("dy", dy);
  params.on_load = on_load.stage(stage);
  params.x = stage.in("x", x);
  params.dweight = stage.out("dweight", dweight);
  activation.stage_x(stage, params);
  params.workspace = stage.workspace("workspace", workspace);
  params.splits = int32_t(workspace.size(0));
  params.allow_tf32 = limits.allow_tf32;
  stage.run(&KernelLibrary::conv_wgrad, params);
  return dweight;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_conv_wgrad(Tensor dy, Tensor x, SymInt[] weight_size, Tensor? x_scale, Tensor? x_bias, "
      "int[2] stride, int[2] padding, int[2] dilation, int groups, " RNC_BN_BACKWARD_SCHEMA
      ", Tensor? x_floor=None) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_conv_wgrad", TORCH_BOX(&conv_wgrad)); }

}  // namespace rnc::bindings
