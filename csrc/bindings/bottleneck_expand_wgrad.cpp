#include <tuple>

#include "bindings/closed_form.h"
#include "bindings/register.h"
#include "launch/plan.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> bottleneck_expand_wgrad(const Tensor& dz, const OptionalTensor& mask,
                                                   const Tensor& x, const OptionalTensor& x_scale,
                                                   const OptionalTensor& x_bias,
                                                   const OptionalTensor& x_floor, int64_t stride) {
  const Arguments args("bottleneck_expand_wgrad", "dz", dz);
  const Shape x_shape = args.activation("x", x);
  const Conv2dProblem problem = closed_form_problem(args, x_shape, dz, mask, stride);
  const NormaliseOnLoadArguments on_load{x_scale, x_bias, x_floor};
  on_load.check(args, "x", problem.C);
  const Tensor product = args.new_doubles({problem.K, problem.C});
  const Tensor sums = args.new_doubles({problem.K});

  Stage stage(args);
  BottleneckExpandWgradParams params{};
  params.problem = problem;
  PlanLimits limits;
  limits.allow_tf32 = params.allow_tf32 = stage.allows_tf32();
  const ConvPlan plan = plan_pixel_product(problem, args.dtype(), false, limits);
  const Tensor workspace = args.new_accumulators({plan.splits, problem.weight_size() + problem.K});
  params.dz = stage.in("dz", dz);
  params.mask = static_cast<const uint8_t*>(stage.in("mask", mask));
  params.x = stage.in("x", x);
  on_load.stage_x(stage, params);
  params.product = static_cast<double*>(stage.out("product", product));
  params.sums = static_cast<double*>(stage.out("sums", sums));
  params.workspace = stage.workspace("workspace", workspace);
  params.splits = plan.splits;
  stage.run(&KernelLibrary::bottleneck_expand_wgrad, params);
  return {product, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_expand_wgrad(Tensor dz, Tensor? mask, Tensor x, Tensor? x_scale, "
      "Tensor? x_bias, Tensor? x_floor, int stride) -> (Tensor product, Tensor sums)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_expand_wgrad", TORCH_BOX(&bottleneck_expand_wgrad)); }

}  // namespace rnc::bindings
