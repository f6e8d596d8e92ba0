// A whole bottleneck on Hopper as it is shipped: what tests/mutation deletes from.
#include "../device_library/device_library.h"
#include "launch/sm90/bottleneck_block.h"

namespace rnc {
namespace {

// buffers: y, x, and of the reduce, the 3x3 and the expand weight, scale, bias; numbers: images,
// height, width
Status bottleneck_block(const LaunchArguments& arguments) {
  using T = bfloat16;
  BottleneckBlockParams params{};
  params.N = arguments.number(0);
  params.H = arguments.number(1);
  params.W = arguments.number(2);
  params.C = BottleneckBlock<T>::kChannels;
  params.K = BottleneckBlock<T>::kReduced;
  params.y = arguments.buffer<T>(0);
  params.x = arguments.buffer<const T>(1);
  params.reduce_weight = arguments.buffer<const T>(2);
  params.reduce_scale = arguments.buffer<const float>(3);
  params.reduce_bias = arguments.buffer<const float>(4);
  params.convolve_weight = arguments.buffer<const T>(5);
  params.convolve_scale = arguments.buffer<const float>(6);
  params.convolve_bias = arguments.buffer<const float>(7);
  params.expand_weight = arguments.buffer<const T>(8);
  params.expand_scale = arguments.buffer<const float>(9);
  params.expand_bias = arguments.buffer<const float>(10);
  ConvPlan plan{};
  plan.kernel = "bottleneck_block";
  return launch_bottleneck_block<T>(plan, params, nullptr);
}

const KernelRegistration kRegistrations[] = {{"hopper_bottleneck_block", bottleneck_block}};

}  // namespace
}  // namespace rnc
