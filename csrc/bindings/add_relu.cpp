#include <tuple>

#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

std::tuple<Tensor, Tensor> add_relu_forward(const Tensor& x, const Tensor& residual, bool mask) {
  const Arguments args("add_relu_forward", "x", x);
  const Shape shape = args.activation("x", x);
  args.activation("residual", residual, shape);
  const Tensor z = args.new_activation(shape);
  const Tensor bits = mask ? args.new_bit_mask(shape.size()) : args.no_bytes();

  Stage stage(args);
  AddReluForwardParams params{};
  params.size = shape.size();
  params.x = stage.in("x", x);
  params.residual = stage.in("residual", residual);
  params.z = stage.out("z", z);
  params.mask = static_cast<uint8_t*>(stage.out("mask", bits));
  stage.run(&KernelLibrary::add_relu_forward, params);
  return {z, bits};
}

Tensor add_relu_backward(const Tensor& dz, const Tensor& mask) {
  const Arguments args("add_relu_backward", "dz", dz);
  const Shape shape = args.activation("dz", dz);
  args.bit_mask("mask", mask, shape.size());
  const Tensor dx = args.new_activation(shape);

  Stage stage(args);
  AddReluBackwardParams params{};
  params.size = shape.size();
  params.dz = stage.in("dz", dz);
  params.mask = static_cast<const uint8_t*>(stage.in("mask", mask));
  params.dx = stage.out("dx", dx);
  stage.run(&KernelLibrary::add_relu_backward, params);
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def("_add_relu_forward(Tensor x, Tensor residual, bool mask) -> (Tensor z, Tensor mask)");
  m.def("_add_relu_backward(Tensor dz, Tensor mask) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) {
  m.impl("_add_relu_forward", TORCH_BOX(&add_relu_forward));
  m.impl("_add_relu_backward", TORCH_BOX(&add_relu_backward));
}

}  // namespace rnc::bindings
