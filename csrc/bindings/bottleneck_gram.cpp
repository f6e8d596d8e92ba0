#include <tuple>

#include "bindings/closed_form.h"
#include "bindings/register.h"
#include "launch/plan.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> bottleneck_gram(const Tensor& x, const OptionalTensor& x_scale,
                                           const OptionalTensor& x_bias,
                                           const OptionalTensor& x_floor, int64_t stride) {
  const Arguments args("bottleneck_gram", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Conv2dProblem problem = closed_form_problem(args, x_shape, x_shape.C, stride);
  const NormaliseOnLoadArguments on_load{x_scale, x_bias, x_floor};
  on_load.check(args, "x", problem.C);
  const Tensor sums = args.new_doubles({problem.C});
  const Tensor gram = args.new_doubles({problem.C, problem.C});

  Stage stage(args);
  BottleneckGramParams params{};
  params.problem = problem;
  PlanLimits limits;
  limits.allow_tf32 = params.allow_tf32 = stage.allows_tf32();
  const ConvPlan plan = plan_pixel_product(problem, args.dtype(), true, limits);
  const Tensor workspace = args.new_accumulators({plan.splits, problem.weight_size() + problem.C});
  params.x = stage.in("x", x);
  on_load.stage_x(stage, params);
  params.sums = static_cast<double*>(stage.out("sums", sums));
  params.gram = static_cast<double*>(stage.out("gram", gram));
  params.workspace = stage.workspace("workspace", workspace);
  params.splits = plan.splits;
  stage.run(&KernelLibrary::bottleneck_gram, params);
  return {sums, gram};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_gram(Tensor x, Tensor? x_scale, Tensor? x_bias, Tensor? x_floor, int stride) "
      "-> (Tensor sums, Tensor gram)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_gram", TORCH_BOX(&bottleneck_gram)); }

}  // namespace rnc::bindings
