// Batch norm in closed form between its passes over pixels: statistics and gradients by filter, and
// the matrices of the backward, from the passes' float64 sums.
#include <tuple>

#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

// The filters [K, C, 1, 1] of the call; channels and filters come in pieces of 8.
Shape check_filters(const Arguments& args, const Tensor& weight) {
  const Shape shape = args.weight("weight", weight);
  args.require(shape.H == 1 && shape.W == 1, "weight has ", shape.H, "x", shape.W,
               " filters, expected 1x1");
  args.require(shape.C % 8 == 0, "weight has ", shape.C,
               " channels in each filter, expected a multiple of 8");
  args.require(shape.N % 8 == 0, "weight has ", shape.N, " filters, expected a multiple of 8");
  return shape;
}

RowCount stage_rows(const Arguments& args, Stage& stage, int64_t rows,
                    const OptionalTensor& rows_of_all) {
  args.require(rows >= 0, "rows is ", rows, ", expected 0 or more");
  return {double(rows), static_cast<const double*>(stage.in("rows_of_all", rows_of_all))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> closed_form_finalize(
    const Tensor& weight, const Tensor& sums, const Tensor& gram, const Tensor& shift, int64_t rows,
    const OptionalTensor& rows_of_all, const OptionalTensor& own_sums, const OptionalTensor& gamma,
    const OptionalTensor& beta, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, double momentum, double eps) {
  const Arguments args("closed_form_finalize", "weight", weight);
  const Shape shape = check_filters(args, weight);
  const int64_t K = shape.N, C = shape.C;
  args.doubles("sums", sums, {C});
  args.doubles("gram", gram, {C, C});
  args.accumulators("shift", shift, {C});
  args.together("rows_of_all", rows_of_all, "own_sums", own_sums);
  args.doubles("rows_of_all", rows_of_all, {});
  args.doubles("own_sums", own_sums, {C});
  args.accumulators("gamma", gamma, {K});
  args.accumulators("beta", beta, {K});
  args.together("running_mean", running_mean, "running_var", running_var);
  args.accumulators("running_mean", running_mean, {K});
  args.accumulators("running_var", running_var, {K});
  const Tensor mean = args.new_doubles({C}), excess = args.new_doubles({own_sums ? C : 0});
  const Tensor output_mean = args.new_doubles({K}), invstd = args.new_doubles({K});
  const Tensor scale = args.new_accumulators({K}), bias = args.new_accumulators({K});
  const Tensor workspace = args.new_doubles({closed_form_tiles(shape.C), kClosedFormSums, K});

  Stage stage(args);
  ClosedFormFinalizeParams params{};
  params.K = shape.N;
  params.C = shape.C;
  params.weight = stage.in("weight", weight);
  params.sums = static_cast<const double*>(stage.in("sums", sums));
  params.gram = static_cast<const double*>(stage.in("gram", gram));
  params.shift = stage.in("shift", shift);
  params.rows = stage_rows(args, stage, rows, rows_of_all);
  params.own_sums = static_cast<const double*>(stage.in("own_sums", own_sums));
  params.gamma = stage.in("gamma", gamma);
  params.beta = stage.in("beta", beta);
  params.running_mean = stage.inout("running_mean", running_mean);
  params.running_var = stage.inout("running_var", running_var);
  params.momentum = momentum;
  params.eps = eps;
  params.mean = static_cast<double*>(stage.out("mean", mean));
  params.excess = static_cast<double*>(stage.out("excess", excess));
  params.output_mean = static_cast<double*>(stage.out("output_mean", output_mean));
  params.invstd = static_cast<double*>(stage.out("invstd", invstd));
  params.scale = stage.out("scale", scale);
  params.bias = stage.out("bias", bias);
  params.workspace = static_cast<double*>(stage.workspace("workspace", workspace));
  stage.run(&KernelLibrary::closed_form_finalize, params);
  return {mean, excess, output_mean, invstd, scale, bias};
}

std::tuple<Tensor, Tensor> closed_form_backward_reduce(const Tensor& weight, const Tensor& product,
                                                       const Tensor& sums, const Tensor& mean,
                                                       const OptionalTensor& excess,
                                                       const Tensor& invstd) {
  const Arguments args("closed_form_backward_reduce", "weight", weight);
  const Shape shape = check_filters(args, weight);
  const int64_t K = shape.N, C = shape.C;
  args.doubles("product", product, {K, C});
  args.doubles("sums", sums, {K});
  args.doubles("mean", mean, {C});
  args.doubles("excess", excess, {C});
  args.doubles("invstd", invstd, {K});
  const Tensor dgamma = args.new_doubles({K}), moments = args.new_doubles({excess ? K : 0});

  Stage stage(args);
  ClosedFormBackwardReduceParams params{};
  params.K = shape.N;
  params.C = shape.C;
  params.weight = stage.in("weight", weight);
  params.product = static_cast<const double*>(stage.in("product", product));
  params.sums = static_cast<const double*>(stage.in("sums", sums));
  params.mean = static_cast<const double*>(stage.in("mean", mean));
  params.excess = static_cast<const double*>(stage.in("excess", excess));
  params.invstd = static_cast<const double*>(stage.in("invstd", invstd));
  params.dgamma = static_cast<double*>(stage.out("dgamma", dgamma));
  params.moments = static_cast<double*>(stage.out("moments", moments));
  stage.run(&KernelLibrary::closed_form_backward_reduce, params);
  return {dgamma, moments};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> closed_form_backward_finalize(
    const Tensor& weight, const Tensor& product, const Tensor& sums, const Tensor& gram,
    const Tensor& mean, const OptionalTensor& excess, const OptionalTensor& moments,
    const Tensor& shift, const Tensor& invstd, const OptionalTensor& gamma,
    const Tensor& dgamma_of_all, const Tensor& sums_of_all, int64_t rows,
    const OptionalTensor& rows_of_all, bool weight_grad, bool input_grad) {
  const Arguments args("closed_form_backward_finalize", "weight", weight);
  const Shape shape = check_filters(args, weight);
  const int64_t K = shape.N, C = shape.C;
  args.require(weight_grad || input_grad,
               "weight_grad and input_grad are both false, expected at least one");
  args.doubles("product", product, {K, C});
  args.doubles("sums", sums, {K});
  args.doubles("gram", gram, {C, C});
  args.doubles("mean", mean, {C});
  args.together("excess", excess, "moments", moments);
  args.together("excess", excess, "rows_of_all", rows_of_all);
  args.doubles("excess", excess, {C});
  args.doubles("moments", moments, {K});
  args.accumulators("shift", shift, {C});
  args.doubles("invstd", invstd, {K});
  args.accumulators("gamma", gamma, {K});
  args.doubles("dgamma_of_all", dgamma_of_all, {K});
  args.doubles("sums_of_all", sums_of_all, {K});
  args.doubles("rows_of_all", rows_of_all, {});
  const Tensor dweight = weight_grad ? args.new_activation(shape) : args.no_activation();
  // What it multiplies is the input as it is rounded; of 16 bits the matrix is two.
  const int64_t matrices = size_of(args.dtype()) == 2 ? 2 : 1;
  const auto matrix = [&](int64_t lines) {
    return input_grad ? args.new_matrix(lines, C) : args.no_activation();
  };
  const Tensor of_gradient = matrix(K), of_operand = matrix(matrices * C);
  const Tensor constant = args.new_accumulators({input_grad ? C : 0});
  const int64_t tiles = closed_form_tiles(shape.N) + closed_form_tiles(shape.C);
  const Tensor workspace = args.new_doubles({input_grad ? tiles : 0, C});

  Stage stage(args);
  ClosedFormBackwardFinalizeParams params{};
  params.K = shape.N;
  params.C = shape.C;
  params.weight = stage.in("weight", weight);
  params.product = static_cast<const double*>(stage.in("product", product));
  params.sums = static_cast<const double*>(stage.in("sums", sums));
  params.gram = static_cast<const double*>(stage.in("gram", gram));
  params.mean = static_cast<const double*>(stage.in("mean", mean));
  params.excess = static_cast<const double*>(stage.in("excess", excess));
  params.moments = static_cast<const double*>(stage.in("moments", moments));
  params.shift = stage.in("shift", shift);
  params.invstd = static_cast<const double*>(stage.in("invstd", invstd));
  params.gamma = stage.in("gamma", gamma);
  params.dgamma_of_all = static_cast<const double*>(stage.in("dgamma_of_all", dgamma_of_all));
  params.sums_of_all = static_cast<const double*>(stage.in("sums_of_all", sums_of_all));
  params.rows = stage_rows(args, stage, rows, rows_of_all);
  params.dweight = stage.out("dweight", dweight);
  params.of_gradient = stage.out("of_gradient", of_gradient);
  params.of_operand = stage.out("of_operand", of_operand);
  params.constant = stage.out("constant", constant);
  params.workspace = static_cast<double*>(stage.workspace("workspace", workspace));
  stage.run(&KernelLibrary::closed_form_backward_finalize, params);
  return {dweight, of_gradient, of_operand, constant};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_closed_form_finalize(Tensor weight, Tensor sums, Tensor gram, Tensor shift, SymInt rows, "
      "Tensor? rows_of_all, Tensor? own_sums, Tensor? gamma, Tensor? beta, Tensor(a!)? "
      "running_mean, Tensor(b!)? running_var, float momentum, float eps) -> (Tensor mean, Tensor "
      "excess, Tensor output_mean, Tensor invstd, Tensor scale, Tensor bias)");
  m.def(
      "_closed_form_backward_reduce(Tensor weight, Tensor product, Tensor sums, Tensor mean, "
      "Tensor? excess, Tensor invstd) -> (Tensor dgamma, Tensor moments)");
  m.def(
      "_closed_form_backward_finalize(Tensor weight, Tensor product, Tensor sums, Tensor gram, "
      "Tensor mean, Tensor? excess, Tensor? moments, Tensor shift, Tensor invstd, Tensor? gamma, "
      "Tensor dgamma_of_all, Tensor sums_of_all, SymInt rows, Tensor? rows_of_all, bool "
      "weight_grad, bool input_grad) -> (Tensor dweight, Tensor of_gradient, Tensor of_operand, "
      "Tensor constant)");
}

RNC_IMPLEMENT_OPS(m) {
  m.impl("_closed_form_finalize", TORCH_BOX(&closed_form_finalize));
  m.impl("_closed_form_backward_reduce", TORCH_BOX(&closed_form_backward_reduce));
  m.impl("_closed_form_backward_finalize", TORCH_BOX(&closed_form_backward_finalize));
}

}  // namespace rnc::bindings
