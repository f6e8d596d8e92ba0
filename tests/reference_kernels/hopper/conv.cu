// Convolution of x[N, H, W, C] with weight[K, R, S, C] by TMA im2col and wgmma: fprop for any
// stride and dilation, dgrad for stride 1. C and K are multiples of 8.
#include "conv.cuh"
#include "launch/launch_kernel.h"
#include "tensor_maps.h"

namespace rnc::reference {
namespace {

template <class Tile>
Status launch(const char* name, ConvParams& params, const Conv2dProblem& problem, const void* input,
              void* output) {
  using Element = typename Tile::Element;
  const int32_t pixels = int32_t(problem.output_pixels());
  params.height = problem.P;
  params.width = problem.Q;
  params.channels = problem.C;
  params.r = problem.R;
  params.s = problem.S;
  params.stride_h = problem.stride_h;
  params.stride_w = problem.stride_w;
  params.pad_h = problem.pad_h;
  params.pad_w = problem.pad_w;
  params.dilation_h = problem.dilation_h;
  params.dilation_w = problem.dilation_w;
  Status status = make_image_map<Element>(&params.input, input, problem, Tile::kPixels,
                                          kSliceElements<Element>);
  if (!status.ok()) return status;
  status = make_matrix_map<Element>(&params.output, output, pixels, problem.K, Warpgroup::kRows,
                                    TilePanel::kColumns);
  if (!status.ok()) return status;
  const Dim3 grid = {divide_up(pixels, Tile::kPixels), divide_up(problem.K, Tile::kColumns), 1};
  return launch_kernel(name, conv_kernel<Tile>, grid, Dim3{Tile::kThreads, 1, 1},
                       sizeof(ConvStorage<Tile>), nullptr, params);
}

// buffers: y, x, weight; numbers: the problem
template <class Element>
Status fprop(const LaunchArguments& arguments) {
  using Tile = ConvTile<Element, ConvDirection::kFprop>;
  const Conv2dProblem problem = read_conv_problem(arguments);
  ConvParams params = {};
  const Status status = make_filter_map<Element>(&params.filter, arguments.buffer<const void>(2),
                                                 problem, Tile::kColumns, kSliceElements<Element>);
  if (!status.ok()) return status;
  return launch<Tile>("hopper_conv_fprop", params, problem, arguments.buffer<const void>(1),
                      arguments.buffer<void>(0));
}

// buffers: dx, dy, weight; numbers: the problem, of stride 1
template <class Element>
Status dgrad(const LaunchArguments& arguments) {
  using Tile = ConvTile<Element, ConvDirection::kDgrad>;
  const Conv2dProblem problem = read_conv_problem(arguments);
  ConvParams params = {};
  const Status status =
      make_filter_map<Element>(&params.filter, arguments.buffer<const void>(2), problem,
                               kSliceElements<Element>, TilePanel::kColumns);
  if (!status.ok()) return status;
  // dx is the convolution of dy with the reversed filters.
  Conv2dProblem gradient = problem;
  gradient.H = problem.P;
  gradient.W = problem.Q;
  gradient.C = problem.K;
  gradient.P = problem.H;
  gradient.Q = problem.W;
  gradient.K = problem.C;
  gradient.pad_h = (problem.R - 1) * problem.dilation_h - problem.pad_h;
  gradient.pad_w = (problem.S - 1) * problem.dilation_w - problem.pad_w;
  return launch<Tile>("hopper_conv_dgrad", params, gradient, arguments.buffer<const void>(1),
                      arguments.buffer<void>(0));
}

const KernelRegistration kRegistrations[] = {
    {"hopper_conv_fprop_bfloat16", fprop<bfloat16>},
    {"hopper_conv_fprop_float16", fprop<float16>},
    {"hopper_conv_dgrad_bfloat16", dgrad<bfloat16>},
};

}  // namespace
}  // namespace rnc::reference
