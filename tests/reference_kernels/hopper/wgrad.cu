// Gradients of weights, reduced over pixels in parts: dW[k, c] = dy[m, k]^T x[m, c], and of a
// convolution, dW[k, r, s, c]; float. k and c are multiples of 8.
#include "launch/launch_kernel.h"
#include "tensor_maps.h"
#include "wgrad.cuh"

namespace rnc::reference {
namespace {

// Computes the parts, then adds them up. params: all but the map of dy and the split.
template <class Tile>
Status launch(WgradParams& params, int32_t pixels, int32_t splits, const void* dy, float* dw,
              float* parts) {
  params.parts = parts;
  params.slices = int32_t(divide_up(pixels, Tile::kPixels));
  params.slices_per_split = int32_t(divide_up(params.slices, splits));
  // Every part has work: fewer parts may do.
  splits = int32_t(divide_up(params.slices, params.slices_per_split));
  Status status = make_matrix_map<typename Tile::Element>(&params.dy, dy, pixels, params.filters,
                                                          Tile::kPixels, Tile::kFilters);
  if (!status.ok()) return status;
  const Dim3 grid = {divide_up(params.filters, Tile::kFilters),
                     uint32_t(params.taps) * divide_up(params.channels, Tile::kChannels),
                     uint32_t(splits)};
  status = launch_kernel("hopper_wgrad", wgrad_kernel<Tile>, grid, Dim3{Tile::kThreads, 1, 1},
                         sizeof(WgradStorage<Tile>), nullptr, params);
  if (!status.ok()) return status;
  const int32_t elements = params.filters * params.taps * params.channels;
  return launch_kernel("hopper_wgrad_add_parts", add_parts_kernel,
                       Dim3{divide_up(elements, 4 * 256), 1, 1}, Dim3{256, 1, 1}, 0, nullptr,
                       AddPartsParams{parts, dw, splits, elements});
}

// buffers: dw, dy, x, workspace of splits x dw; numbers: m, k, c, splits
template <class Element>
Status matrix(const LaunchArguments& arguments) {
  using Tile = WgradTile<Element, WgradInput::kMatrix>;
  const int32_t pixels = arguments.number(0);
  WgradParams params = {};
  params.filters = arguments.number(1);
  params.channels = arguments.number(2);
  params.taps = 1;
  const Status status =
      make_matrix_map<Element>(&params.x, arguments.buffer<const void>(2), pixels, params.channels,
                               Tile::kPixels, kSliceElements<Element>);
  if (!status.ok()) return status;
  return launch<Tile>(params, pixels, arguments.number(3), arguments.buffer<const void>(1),
                      arguments.buffer<float>(0), arguments.buffer<float>(3));
}

// buffers: dw, dy, x, workspace of splits x dw; numbers: the problem, splits
template <class Element>
Status convolution(const LaunchArguments& arguments) {
  using Tile = WgradTile<Element, WgradInput::kIm2col>;
  constexpr int kSplits = 13;  // its place after the problem
  const Conv2dProblem problem = read_conv_problem(arguments);
  WgradParams params = {};
  params.filters = problem.K;
  params.channels = problem.C;
  params.taps = problem.R * problem.S;
  params.height = problem.P;
  params.width = problem.Q;
  params.s = problem.S;
  params.stride_h = problem.stride_h;
  params.stride_w = problem.stride_w;
  params.pad_h = problem.pad_h;
  params.pad_w = problem.pad_w;
  params.dilation_h = problem.dilation_h;
  params.dilation_w = problem.dilation_w;
  const Status status = make_image_map<Element>(&params.x, arguments.buffer<const void>(2), problem,
                                                Tile::kPixels, kSliceElements<Element>);
  if (!status.ok()) return status;
  return launch<Tile>(params, int32_t(problem.output_pixels()), arguments.number(kSplits),
                      arguments.buffer<const void>(1), arguments.buffer<float>(0),
                      arguments.buffer<float>(3));
}

const KernelRegistration kRegistrations[] = {
    {"hopper_wgrad_matrix_bfloat16", matrix<bfloat16>},
    {"hopper_wgrad_bfloat16", convolution<bfloat16>},
    {"hopper_wgrad_float16", convolution<float16>},
};

}  // namespace
}  // namespace rnc::reference
