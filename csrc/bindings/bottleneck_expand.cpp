#include <tuple>

#include "bindings/normalise_on_load.h"
#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

// The 1x1 convolution `weight` of `x`.
Conv2dProblem pointwise_problem(const Arguments& args, const char* weight_name, const Shape& x,
                                const Shape& weight, int64_t stride) {
  args.require(weight.H == 1 && weight.W == 1, weight_name, " has ", weight.H, "x", weight.W,
               " filters, expected 1x1");
  args.require(weight.C == x.C, weight_name, " has ", weight.C,
               " channels in each filter, expected the channels of its input, ", x.C);
  return conv_problem(args, x, weight, {{stride, stride}, {0, 0}, {1, 1}, 1});
}

std::tuple<Tensor, Tensor, Tensor> bottleneck_expand(
    const Tensor& x, const Tensor& weight, const OptionalTensor& scale, const OptionalTensor& bias,
    const OptionalTensor& residual, const OptionalTensor& projection_weight,
    const OptionalTensor& projection_scale, const OptionalTensor& projection_bias,
    int64_t projection_stride, bool relu, bool statistics, const OptionalTensor& residual_scale,
    bool mask, const OptionalTensor& x_scale, const OptionalTensor& x_bias,
    const OptionalTensor& x_floor, const OptionalTensor& projection_x_scale,
    const OptionalTensor& projection_x_bias, const OptionalTensor& projection_x_floor) {
  const Arguments args("bottleneck_expand", "x", x);
  const Shape x_shape = args.activation("x", x);
  const Shape z_shape =
      output_shape(pointwise_problem(args, "weight", x_shape, args.weight("weight", weight), 1));
  args.together("scale", scale, "bias", bias);
  args.together("projection_weight", projection_weight, "projection_scale", projection_scale);
  args.together("projection_weight", projection_weight, "projection_bias", projection_bias);
  args.accumulators("scale", scale, {z_shape.C});
  args.accumulators("bias", bias, {z_shape.C});
  args.accumulators("projection_scale", projection_scale, {z_shape.C});
  args.accumulators("projection_bias", projection_bias, {z_shape.C});
  args.require(!statistics || !(scale || residual || relu || mask),
               "statistics is True, expected scale, bias and residual None, relu and mask False: "
               "the statistics are those of the raw output");
  args.require(!residual_scale || (residual && !projection_weight),
               "residual_scale is given, expected a residual that is not projected");
  args.accumulators("residual_scale", residual_scale, {z_shape.C});
  args.require(
      !mask || z_shape.C % 8 == 0, "mask is True with ", z_shape.C,
      " filters of weight, expected a multiple of 8: a byte of bits belongs to 8 channels");
  args.require(scale || !(residual || relu),
               "scale is None, expected a tensor because residual or relu is given");

  Shape residual_shape = z_shape;
  if (projection_weight) {
    args.require(residual.has_value(),
                 "residual is None, expected a tensor because projection_weight is given");
    residual_shape = args.activation("residual", *residual);
    const Shape projected = output_shape(
        pointwise_problem(args, "projection_weight", residual_shape,
                          args.weight("projection_weight", *projection_weight), projection_stride));
    args.require(projected.nchw() == z_shape.nchw(), "the projected residual has ", projected.N,
                 "x", projected.C, "x", projected.H, "x", projected.W, " elements, expected ",
                 z_shape.N, "x", z_shape.C, "x", z_shape.H, "x", z_shape.W);
  } else {
    args.activation("residual", residual, z_shape);
  }
  const NormaliseOnLoadArguments on_load{x_scale, x_bias, x_floor};
  on_load.check(args, "x", x_shape.C);
  args.require(projection_weight || !projection_x_scale,
               "projection_weight is None, expected a tensor because projection_x_scale is given");
  NormaliseOnLoadArguments{projection_x_scale, projection_x_bias, projection_x_floor}.check(
      args, "projection_x", residual_shape.C);
  const Tensor z = args.new_activation(z_shape);
  const Tensor partials = statistics
                              ? args.new_accumulators({stats_tiles(z_shape.pixels()), 2, z_shape.C})
                              : args.no_accumulators();
  const Tensor bits = mask ? args.new_bit_mask(z_shape.size()) : args.no_bytes();

  Stage stage(args);
  BottleneckExpandParams params{};
  params.N = z_shape.N;
  params.P = z_shape.H;
  params.Q = z_shape.W;
  params.C = x_shape.C;
  params.K = z_shape.C;
  params.x = stage.in("x", x);
  on_load.stage_x(stage, params);
  params.weight = stage.in("weight", weight);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.residual = stage.in("residual", residual);
  params.residual_scale = stage.in("residual_scale", residual_scale);
  params.mask = static_cast<uint8_t*>(stage.out("mask", bits));
  params.z = stage.out("z", z);
  params.partials = stage.out("partials", partials);
  params.relu = relu;
  params.projection_weight = stage.in("projection_weight", projection_weight);
  params.projection_scale = stage.in("projection_scale", projection_scale);
  params.projection_bias = stage.in("projection_bias", projection_bias);
  params.projection_x_scale = stage.in("projection_x_scale", projection_x_scale);
  params.projection_x_bias = stage.in("projection_x_bias", projection_x_bias);
  params.projection_x_floor = stage.in("projection_x_floor", projection_x_floor);
  params.H = residual_shape.H;
  params.W = residual_shape.W;
  params.residual_C = residual_shape.C;
  params.projection_stride = projection_weight ? int32_t(projection_stride) : 1;
  params.allow_tf32 = stage.allows_tf32();
  stage.run(&KernelLibrary::bottleneck_expand, params);
  return {z, partials, bits};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_bottleneck_expand(Tensor x, Tensor weight, Tensor? scale, Tensor? bias, Tensor? residual, "
      "Tensor? projection_weight, Tensor? projection_scale, Tensor? projection_bias, "
      "int projection_stride, bool relu, bool statistics, *, Tensor? residual_scale=None, "
      "bool mask=False, Tensor? x_scale=None, Tensor? x_bias=None, Tensor? x_floor=None, "
      "Tensor? projection_x_scale=None, Tensor? projection_x_bias=None, "
      "Tensor? projection_x_floor=None) -> (Tensor z, Tensor partials, Tensor mask)");
}

RNC_IMPLEMENT_OPS(m) { m.impl("_bottleneck_expand", TORCH_BOX(&bottleneck_expand)); }

}  // namespace rnc::bindings
