#include <climits>
#include <tuple>

#include "bindings/register.h"
#include "bindings/stage.h"

namespace rnc::bindings {
namespace {

constexpr int64_t kLargestWindow = 15;  // kernel * kernel fits a byte of argmax

MaxPoolGeometry geometry_of(const Arguments& args, const Shape& x, int64_t kernel, int64_t stride,
                            int64_t padding) {
  args.require(kernel >= 1 && kernel <= kLargestWindow, "kernel is ", kernel, ", expected 1 to ",
               kLargestWindow);
  args.require(stride >= 1 && stride <= INT32_MAX, "stride is ", stride, ", expected at least 1");
  args.require(padding >= 0 && padding <= kernel / 2, "padding is ", padding,
               ", expected 0 to half the kernel, ", kernel / 2);
  const auto output_size = [&](const char* what, int32_t in) {
    const int64_t padded = int64_t(in) + 2 * padding;
    args.require(kernel <= padded, "kernel is ", kernel, ", expected at most the padded ", what,
                 " of x, ", padded);
    return int32_t((padded - kernel) / stride + 1);
  };
  MaxPoolGeometry geometry{};
  geometry.N = x.N;
  geometry.H = x.H;
  geometry.W = x.W;
  geometry.C = x.C;
  geometry.P = output_size("height", x.H);
  geometry.Q = output_size("width", x.W);
  geometry.kernel = int32_t(kernel);
  geometry.stride = int32_t(stride);
  geometry.pad = int32_t(padding);
  args.require(int64_t(geometry.P) * geometry.Q * geometry.N <= INT32_MAX,
               "the output would have 2^31 pixels or more, expected fewer");
  return geometry;
}

Shape pooled_shape(const MaxPoolGeometry& geometry) {
  return {geometry.N, geometry.C, geometry.P, geometry.Q};
}

std::tuple<Tensor, Tensor> max_pool_forward(const Tensor& x, int64_t kernel, int64_t stride,
                                            int64_t padding, bool argmax) {
  const Arguments args("max_pool_forward", "x", x);
  const MaxPoolGeometry geometry =
      geometry_of(args, args.activation("x", x), kernel, stride, padding);
  const Shape y_shape = pooled_shape(geometry);
  const Tensor y = args.new_activation(y_shape);
  const Tensor winners = argmax ? args.new_bytes(y_shape) : args.no_bytes();

  Stage stage(args);
  MaxPoolForwardParams params{};
  params.geometry = geometry;
  params.x = stage.in("x", x);
  params.y = stage.out("y", y);
  params.argmax = static_cast<uint8_t*>(stage.out("argmax", winners));
  stage.run(&KernelLibrary::max_pool_forward, params);
  return {y, winners};
}

Tensor max_pool_backward(const Tensor& dy, const Tensor& argmax, const Sizes& input_size,
                         int64_t kernel, int64_t stride, int64_t padding) {
  const Arguments args("max_pool_backward", "dy", dy);
  const Shape x_shape = args.sizes("input_size", input_size);
  const MaxPoolGeometry geometry = geometry_of(args, x_shape, kernel, stride, padding);
  args.activation("dy", dy, pooled_shape(geometry));
  args.byte_map("argmax", argmax, pooled_shape(geometry));
  const Tensor dx = args.new_activation(x_shape);

  Stage stage(args);
  MaxPoolBackwardParams params{};
  params.geometry = geometry;
  params.dy = stage.in("dy", dy);
  params.argmax = static_cast<const uint8_t*>(stage.in("argmax", argmax));
  params.dx = stage.out("dx", dx);
  stage.run(&KernelLibrary::max_pool_backward, params);
  return dx;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(resnet_cuda, m) {
  m.def(
      "_max_pool_forward(Tensor x, int kernel, int stride, int padding, bool argmax) -> "
      "(Tensor y, Tensor argmax)");
  m.def(
      "_max_pool_backward(Tensor dy, Tensor argmax, SymInt[] input_size, int kernel, int stride, "
      "int padding) -> Tensor");
}

RNC_IMPLEMENT_OPS(m) {
  m.impl("_max_pool_forward", TORCH_BOX(&max_pool_forward));
  m.impl("_max_pool_backward", TORCH_BOX(&max_pool_backward));
}

}  // namespace rnc::bindings
