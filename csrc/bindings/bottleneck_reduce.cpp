#include <tuple>

#include "bindings/conv_geometry.h"
#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> bottleneck_reduce(const Tensor& x, const Tensor& weight,
                                             const OptionalTensor& scale,
                                             const OptionalTensor& bias, int64_t stride, bool relu,
                                             bool statistics) {
  const Arguments args("bottleneck_reduce", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Shape weight_shape = args.weight("weight", weight);
  args.require(weight_shape.H == 1 && weight_shape.W == 1, "weight has ", weight_shape.H, "x",
               weight_shape.W, " filters, expected 1x1");
  const Conv2dProblem problem =
      conv_problem(args, x_shape, weight_shape, {{stride, stride}, {0, 0}, {1, 1}, 1});
  const Shape z_shape = output_shape(problem);
  args.together("scale", scale, "bias", bias);
  args.accumulators("scale", scale, {problem.K});
  args.accumulators("bias", bias, {problem.K});
  args.require(!statistics || !(scale || relu),
               "statistics is True, expected scale and bias None and relu False: the statistics "
               "are those of the raw output");
  const Tensor z = args.new_activation(z_shape);
  const Tensor partials = statistics
                              ? args.new_accumulators({stats_tiles(z_shape.pixels()), 2, problem.K})
                              : args.no_accumulators();

  Stage stage(args);
  BottleneckReduceParams params{};
  params.N = problem.N;
  params.H = problem.H;
  params.W = problem.W;
  params.C = problem.C;
  params.K = problem.K;
  params.P = problem.P;
  params.Q = problem.Q;
  params.stride = problem.stride_h;
  params.x = stage.in("x", x);
  params.weight = stage.in("weight", weight);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.z = stage.out("z", z);
  params.partials = stage.out("partials", partials);
  params.relu = relu;
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::bottleneck_reduce, params);
  return {z, partials};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_reduce(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, int stride, "
      "bool relu, bool statistics) -> (Tensor z, Tensor partials)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_reduce", TORCH_BOX(&bottleneck_reduce)); }

}  // namespace rnc::bindings
