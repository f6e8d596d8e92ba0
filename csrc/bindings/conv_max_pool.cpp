#include "bindings/conv_geometry.h"
#include "bindings/register.h"
#include "bindings/stage.h"
#include "kernels/conv/pool_patches.h"
#include "launch/plan.h"

namespace rnc::bindings {
namespace {

Tensor conv_max_pool(const Tensor& x, const Tensor& weight, const Tensor& scale, const Tensor& bias,
                     const Sizes& stride, const Sizes& padding, const Sizes& dilation,
                     int64_t groups) {
  const Arguments args("conv_max_pool", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Shape weight_shape = args.weight("weight", weight);
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {stride, padding, dilation, groups});
  args.accumulators("scale", scale, {problem.K});
  args.accumulators("bias", bias, {problem.K});
  const PoolPatches patches(problem);
  const Tensor y = args.new_activation({problem.N, problem.K, patches.pooled_P, patches.pooled_Q});
  const ConvPlan plan = plan_conv(ConvOp::kFprop, problem, args.dtype(), {.max_pools = true});
  const Tensor convolved =
      plan.error ? args.new_activation(output_shape(problem)) : args.no_activation();

  Stage stage(args);
  ConvMaxPoolParams params{};
  params.problem = problem;
  params.x = stage.in("x", x);
  params.weight = stage.in("weight", weight);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.y = stage.out("y", y);
  params.convolved = stage.workspace("convolved", convolved);
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::conv_max_pool, params);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_conv_max_pool(Tensor x, Tensor weight, Tensor scale, Tensor bias, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_conv_max_pool", TORCH_BOX(&conv_max_pool)); }

}  // namespace rnc::bindings
