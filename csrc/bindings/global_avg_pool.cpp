#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

Tensor global_avg_pool_forward(const Tensor& x) {
  const Arguments args("global_avg_pool_forward", "x", x);
  const Shape shape = args.activation("x", x);
  const Tensor y = args.new_activation({shape.N, shape.C, 1, 1});

  Stage stage(args);
  GlobalAvgPoolForwardParams params{};
  params.N = shape.N;
  params.pixels = shape.H * shape.W;
  params.C = shape.C;
  params.x = stage.in("x", x);
  params.y = stage.out("y", y);
  stage.run(&KernelLibrary::global_avg_pool_forward, params);
  return y;
}

Tensor global_avg_pool_backward(const Tensor& dy, const Sizes& input_size) {
  const Arguments args("global_avg_pool_backward", "dy", dy);
  const Shape shape = args.sizes("input_size", input_size);
  args.activation("dy", dy, {shape.N, shape.C, 1, 1});
  const Tensor dx = args.new_activation(shape);

  Stage stage(args);
  GlobalAvgPoolBackwardParams params{};
  params.N = shape.N;
  params.pixels = shape.H * shape.W;
  params.C = shape.C;
  params.dy = stage.in("dy", dy);
  params.dx = stage.out("dx", dx);
  stage.run(&KernelLibrary::global_avg_pool_backward, params);
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def("_global_avg_pool_forward(Tensor x) -> Tensor");
  m.def("_global_avg_pool_backward(Tensor dy, SymInt[] input_size) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) {
  m.impl("_global_avg_pool_forward", TORCH_BOX(&global_avg_pool_forward));
  m.impl("_global_avg_pool_backward", TORCH_BOX(&global_avg_pool_backward));
}

}  // namespace rnc::bindings
