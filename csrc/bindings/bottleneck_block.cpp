#include "bindings/pointwise_problem.h"
#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

Tensor bottleneck_block(const Tensor& x, const Tensor& reduce_weight, const Tensor& reduce_scale,
                        const Tensor& reduce_bias, const Tensor& convolve_weight,
                        const Tensor& convolve_scale, const Tensor& convolve_bias,
                        const Tensor& expand_weight, const Tensor& expand_scale,
                        const Tensor& expand_bias) {
  const Arguments args("bottleneck_block", "x", x);
  const Shape shape = args.activation("x", x);
  const Conv2dProblem reduce =
      pointwise_problem(args, "reduce_weight", shape, reduce_weight, "channels of x");
  const Shape inner = output_shape(reduce);
  args.activation("convolve_weight", convolve_weight, {inner.C, inner.C, 3, 3});
  args.activation("expand_weight", expand_weight, {shape.C, inner.C, 1, 1});
  args.accumulators("reduce_scale", reduce_scale, {inner.C});
  args.accumulators("reduce_bias", reduce_bias, {inner.C});
  args.accumulators("convolve_scale", convolve_scale, {inner.C});
  args.accumulators("convolve_bias", convolve_bias, {inner.C});
  args.accumulators("expand_scale", expand_scale, {shape.C});
  args.accumulators("expand_bias", expand_bias, {shape.C});
  const Tensor y = args.new_activation(shape);

  Stage stage(args);
  BottleneckBlockParams params{};
  params.N = shape.N;
  params.H = shape.H;
  params.W = shape.W;
  params.C = shape.C;
  params.K = inner.C;
  params.x = stage.in("x", x);
  params.reduce_weight = stage.in("reduce_weight", reduce_weight);
  params.reduce_scale = stage.in("reduce_scale", reduce_scale);
  params.reduce_bias = stage.in("reduce_bias", reduce_bias);
  params.convolve_weight = stage.in("convolve_weight", convolve_weight);
  params.convolve_scale = stage.in("convolve_scale", convolve_scale);
  params.convolve_bias = stage.in("convolve_bias", convolve_bias);
  params.expand_weight = stage.in("expand_weight", expand_weight);
  params.expand_scale = stage.in("expand_scale", expand_scale);
  params.expand_bias = stage.in("expand_bias", expand_bias);
  params.y = stage.out("y", y);
  params.allow_tf32 = stage.allows_tf32();
  const bool fused = stage.kernels().bottleneck_block_is_fused(args.dtype(), params);
  const Tensor reduced = fused ? args.no_activation() : args.new_activation(inner);
  const Tensor convolved = fused ? args.no_activation() : args.new_activation(inner);
  params.reduced = stage.workspace("reduced", reduced);
  params.convolved = stage.workspace("convolved", convolved);
  stage.run(&KernelLibrary::bottleneck_block, params);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_block(Tensor x, Tensor reduce_weight, Tensor reduce_scale, Tensor reduce_bias, "
      "Tensor convolve_weight, Tensor convolve_scale, Tensor convolve_bias, "
      "Tensor expand_weight, Tensor expand_scale, Tensor expand_bias) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_block", TORCH_BOX(&bottleneck_block)); }

}  // namespace rnc::bindings
