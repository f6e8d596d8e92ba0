#include <algorithm>
#include <tuple>

#include "bindings/register.h"
#include "bindings/residual.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

// A caller's ReLU gate: mask, or gate_scale and gate_bias, or nothing.
struct GateArguments {
  const OptionalTensor& mask;
  const OptionalTensor& scale;
  const OptionalTensor& bias;

  void check(const Arguments& args, const Shape& shape) const {
    args.together("gate_scale", scale, "gate_bias", bias);
    args.require(!(mask && scale), "mask and gate_scale are both given, expected at most one");
    args.bit_mask("mask", mask, shape.size());
    args.accumulators("gate_scale", scale, {shape.C});
    args.accumulators("gate_bias", bias, {shape.C});
  }

  ReluGate stage(Stage& stage) const {
    return {static_cast<const uint8_t*>(stage.in("mask", mask)), stage.in("gate_scale", scale),
            stage.in("gate_bias", bias)};
  }
};

// The channels of partials Acc [stats_tiles(rows), 2, C]. Sums may come in any number of tiles: a
// strided dgrad has some that are not full.
int32_t check_partials(const Arguments& args, const Tensor& partials, int64_t rows,
                       bool any_tiles = false) {
  args.require(rows >= 1 && rows <= INT32_MAX, "rows is ", rows, ", expected 1 to 2^31 - 1");
  args.require(partials.dim() == 3, "partials has ", partials.dim(), " dimensions, expected 3");
  const int64_t channels = partials.size(2);
  args.require(channels >= 1 && channels <= INT32_MAX, "partials has ", channels,
               " channels, expected at least one");
  const int64_t tiles = any_tiles ? std::max<int64_t>(partials.size(0), 1) : stats_tiles(rows);
  args.accumulators("partials", partials, {tiles, 2, channels});
  return int32_t(channels);
}

Tensor bn_statistics(const Tensor& y) {
  const Arguments args("bn_statistics", "y", y);
  const Shape shape = args.activation("y", y);
  const Tensor partials = args.new_accumulators({stats_tiles(shape.pixels()), 2, shape.C});

  Stage stage(args);
  BnStatisticsParams params{};
  params.rows = shape.pixels();
  params.C = shape.C;
  params.y = stage.in("y", y);
  params.partials = stage.out("partials", partials);
  stage.run(&KernelLibrary::bn_statistics, params);
  return partials;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> bn_finalize(const Tensor& partials, int64_t rows,
                                                       const OptionalTensor& gamma,
                                                       const OptionalTensor& beta,
                                                       const OptionalTensor& running_mean,
                                                       const OptionalTensor& running_var,
                                                       double momentum, double eps) {
  const Arguments args("bn_finalize", "partials", partials);
  const int32_t C = check_partials(args, partials, rows);
  args.accumulators("gamma", gamma, {C});
  args.accumulators("beta", beta, {C});
  args.together("running_mean", running_mean, "running_var", running_var);
  args.accumulators("running_mean", running_mean, {C});
  args.accumulators("running_var", running_var, {C});
  const Tensor mean = args.new_accumulators({C}), invstd = args.new_accumulators({C});
  const Tensor scale = args.new_accumulators({C}), bias = args.new_accumulators({C});

  Stage stage(args);
  BnFinalizeParams params{};
  params.rows = rows;
  params.C = C;
  params.partials = stage.in("partials", partials);
  params.gamma = stage.in("gamma", gamma);
  params.beta = stage.in("beta", beta);
  params.running_mean = stage.inout("running_mean", running_mean);
  params.running_var = stage.inout("running_var", running_var);
  params.momentum = momentum;
  params.eps = eps;
  params.mean = stage.out("mean", mean);
  params.invstd = stage.out("invstd", invstd);
  params.scale = stage.out("scale", scale);
  params.bias = stage.out("bias", bias);
  stage.run(&KernelLibrary::bn_finalize, params);
  return {mean, invstd, scale, bias};
}

std::tuple<Tensor, Tensor> bn_apply(const Tensor& y, const Tensor& scale, const Tensor& bias,
                                    const OptionalTensor& residual, bool relu, bool mask,
                                    const OptionalTensor& residual_scale, int64_t residual_stride) {
  const Arguments args("bn_apply", "y", y);
  const Shape shape = args.activation("y", y);
  args.accumulators("scale", scale, {shape.C});
  args.accumulators("bias", bias, {shape.C});
  const ResidualSampling sampling = check_residual(args, residual, residual_stride, shape);
  args.require(residual || !residual_scale,
               "residual is None, expected a tensor because residual_scale is given");
  args.accumulators("residual_scale", residual_scale, {shape.C});
  const Tensor z = args.new_activation(shape);
  const Tensor bits = mask ? args.new_bit_mask(shape.size()) : args.no_bytes();

  Stage stage(args);
  BnApplyParams params{};
  params.rows = shape.pixels();
  params.C = shape.C;
  params.y = stage.in("y", y);
  params.scale = stage.in("scale", scale);
  params.bias = stage.in("bias", bias);
  params.residual = stage.in("residual", residual);
  params.residual_scale = stage.in("residual_scale", residual_scale);
  params.residual_sampling = sampling;
  params.z = stage.out("z", z);
  params.mask = static_cast<uint8_t*>(stage.out("mask", bits));
  params.relu = relu;
  stage.run(&KernelLibrary::bn_apply, params);
  return {z, bits};
}

Tensor bn_backward_reduce(const Tensor& dz, const Tensor& y, const Tensor& mean,
                          const OptionalTensor& mask, const OptionalTensor& gate_scale,
                          const OptionalTensor& gate_bias) {
  const Arguments args("bn_backward_reduce", "dz", dz);
  const Shape shape = args.activation("dz", dz);
  const GateArguments gate{mask, gate_scale, gate_bias};
  args.activation("y", y, shape);
  args.accumulators("mean", mean, {shape.C});
  gate.check(args, shape);
  const Tensor partials = args.new_accumulators({stats_tiles(shape.pixels()), 2, shape.C});

  Stage stage(args);
  BnBackwardReduceParams params{};
  params.rows = shape.pixels();
  params.C = shape.C;
  params.dz = stage.in("dz", dz);
  params.y = stage.in("y", y);
  params.mean = stage.in("mean", mean);
  params.gate = gate.stage(stage);
  params.partials = stage.out("partials", partials);
  stage.run(&KernelLibrary::bn_backward_reduce, params);
  return partials;
}

std::tuple<Tensor, Tensor, Tensor> bn_backward_finalize(const Tensor& partials, int64_t rows,
                                                        const OptionalTensor& gamma,
                                                        const Tensor& mean, const Tensor& invstd,
                                                        bool training) {
  const Arguments args("bn_backward_finalize", "partials", partials);
  const int32_t C = check_partials(args, partials, rows, true);
  args.accumulators("gamma", gamma, {C});
  args.accumulators("mean", mean, {C});
  args.accumulators("invstd", invstd, {C});
  const Tensor dgamma = args.new_accumulators({C}), dbeta = args.new_accumulators({C});
  const Tensor coefficients = args.new_accumulators({kBnCoefficients, C});

  Stage stage(args);
  BnBackwardFinalizeParams params{};
  params.rows = rows;
  params.tiles = partials.size(0);
  params.C = C;
  params.partials = stage.in("partials", partials);
  params.gamma = stage.in("gamma", gamma);
  params.mean = stage.in("mean", mean);
  params.invstd = stage.in("invstd", invstd);
  params.training = training;
  params.dgamma = stage.out("dgamma", dgamma);
  params.dbeta = stage.out("dbeta", dbeta);
  params.coefficients = stage.out("coefficients", coefficients);
  stage.run(&KernelLibrary::bn_backward_finalize, params);
  return {dgamma, dbeta, coefficients};
}

std::tuple<Tensor, Tensor> bn_backward_apply(const Tensor& dz, const Tensor& y,
                                             const OptionalTensor& mask,
                                             const OptionalTensor& gate_scale,
                                             const OptionalTensor& gate_bias,
                                             const Tensor& coefficients, bool residual_grad,
                                             const OptionalTensor& addend, int64_t addend_stride) {
  const Arguments args("bn_backward_apply", "dz", dz);
  const Shape shape = args.activation("dz", dz);
  const GateArguments gate{mask, gate_scale, gate_bias};
  args.activation("y", y, shape);
  gate.check(args, shape);
  args.accumulators("coefficients", coefficients, {kBnCoefficients, shape.C});
  const int32_t addend_channels = check_addend(args, addend, {}, addend_stride, shape);
  const bool is_flat = addend_stride == 1 && addend_channels == shape.C;
  args.require(is_flat || shape.pixels() <= INT32_MAX, "addend is spread over ", shape.pixels(),
               " pixels, expected at most ", INT32_MAX);
  const Tensor dy = args.new_activation(shape);
  const Tensor dresidual = residual_grad ? args.new_activation(shape) : args.no_activation();

  Stage stage(args);
  BnBackwardApplyParams params{};
  params.rows = shape.pixels();
  params.C = shape.C;
  params.dz = stage.in("dz", dz);
  params.y = stage.in("y", y);
  params.gate = gate.stage(stage);
  params.coefficients = stage.in("coefficients", coefficients);
  params.addend = stage.in("addend", addend);
  params.H = shape.H;
  params.W = shape.W;
  params.addend_C = addend_channels;
  params.addend_stride = int32_t(addend_stride);
  params.dy = stage.out("dy", dy);
  params.dresidual = stage.out("dresidual", dresidual);
  stage.run(&KernelLibrary::bn_backward_apply, params);
  return {dy, dresidual};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def("_bn_statistics(Tensor y) -> Tensor");
  m.def(
      "_bn_finalize(Tensor partials, SymInt rows, Tensor? gamma, Tensor? beta, Tensor(a!)? "
      "running_mean, Tensor(b!)? running_var, float momentum, float eps) -> (Tensor mean, Tensor "
      "invstd, Tensor scale, Tensor bias)");
  m.def(
      "_bn_apply(Tensor y, Tensor scale, Tensor bias, Tensor? residual, bool relu, bool mask, "
      "*, Tensor? residual_scale=None, int residual_stride=1) -> "
      "(Tensor z, Tensor mask)");
  m.def(
      "_bn_backward_reduce(Tensor dz, Tensor y, Tensor mean, Tensor? mask, Tensor? gate_scale, "
      "Tensor? gate_bias) -> Tensor");
  m.def(
      "_bn_backward_finalize(Tensor partials, SymInt rows, Tensor? gamma, Tensor mean, Tensor "
      "invstd, "
      "bool training) -> (Tensor dgamma, Tensor dbeta, Tensor coefficients)");
  m.def(
      "_bn_backward_apply(Tensor dz, Tensor y, Tensor? mask, Tensor? gate_scale, Tensor? "
      "gate_bias, Tensor coefficients, bool residual_grad, *, Tensor? addend=None, "
      "int addend_stride=1) -> (Tensor dy, Tensor dresidual)");
}

RNC_IMPLEMENT_OPS(m) {
  m.impl("_bn_statistics", TORCH_BOX(&bn_statistics));
  m.impl("_bn_finalize", TORCH_BOX(&bn_finalize));
  m.impl("_bn_apply", TORCH_BOX(&bn_apply));
  m.impl("_bn_backward_reduce", TORCH_BOX(&bn_backward_reduce));
  m.impl("_bn_backward_finalize", TORCH_BOX(&bn_backward_finalize));
  m.impl("_bn_backward_apply", TORCH_BOX(&bn_backward_apply));
}

}  // namespace rnc::bindings
