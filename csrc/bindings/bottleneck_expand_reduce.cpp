#include <tuple>

#include "bindings/pointwise_problem.h"
#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> bottleneck_expand_reduce(const Tensor& x, const Tensor& weight,
                                                    const Tensor& scale, const Tensor& bias,
                                                    const Tensor& residual,
                                                    const Tensor& next_weight,
                                                    const Tensor& next_scale,
                                                    const Tensor& next_bias) {
  const Arguments args("bottleneck_expand_reduce", "x", x);
  const Conv2dProblem expand =
      pointwise_problem(args, "weight", args.activation("x", x), weight, "channels of x");
  const Conv2dProblem reduce = pointwise_problem(args, "next_weight", output_shape(expand),
                                                 next_weight, "filters of weight");
  args.accumulators("scale", scale, {expand.K});
  args.accumulators("bias", bias, {expand.K});
  args.activation("residual", residual, output_shape(expand));
  args.accumulators("next_scale", next_scale, {reduce.K});
  args.accumulators("next_bias", next_bias, {reduce.K});
  const Tensor y = args.new_activation(output_shape(expand));
  const Tensor z = args.new_activation(output_shape(reduce));

  Stage stage(args);
  BottleneckExpandReduceParams params{};
  params.N = expand.N;
  params.P = expand.P;
  params.Q = expand.Q;
  params.C = expand.C;
  params.K = expand.K;
  params.L = reduce.K;
  params.x = stage.in("x", x);
  params.weight = stage.in("weight", weight);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.residual = stage.in("residual", residual);
  params.y = stage.out("y", y);
  params.next_weight = stage.in("next_weight", next_weight);
  params.next_scale = stage.in("next_scale", next_scale);
  params.next_bias = stage.in("next_bias", next_bias);
  params.z = stage.out("z", z);
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::bottleneck_expand_reduce, params);
  return {y, z};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_expand_reduce(Tensor x, Tensor weight, Tensor scale, Tensor bias, "
      "Tensor residual, Tensor next_weight, Tensor next_scale, Tensor next_bias) "
      "-> (Tensor y, Tensor z)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_expand_reduce", TORCH_BOX(&bottleneck_expand_reduce)); }

}  // namespace rnc::bindings
