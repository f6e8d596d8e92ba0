// A bottleneck's expand with the reduce behind it on Hopper as it is shipped: what tests/mutation
// deletes from.
#include "../device_library/device_library.h"
#include "launch/sm90/bottleneck_expand_reduce.h"

namespace rnc {
namespace {

// buffers: y, z, x, weight, scale, bias, residual, next weight, next scale, next bias; numbers:
// pixels, channels of x, of y
Status expand_reduce(const LaunchArguments& arguments) {
  using T = bfloat16;
  constexpr int kReduced = 128;
  BottleneckExpandReduceParams params{};
  params.N = params.P = 1;
  params.Q = arguments.number(0);
  params.C = arguments.number(1);
  params.K = arguments.number(2);
  params.L = kReduced;
  params.y = arguments.buffer<T>(0);
  params.z = arguments.buffer<T>(1);
  params.x = arguments.buffer<const T>(2);
  params.weight = arguments.buffer<const T>(3);
  params.scale = arguments.buffer<const float>(4);
  params.bias = arguments.buffer<const float>(5);
  params.residual = arguments.buffer<const T>(6);
  params.next_weight = arguments.buffer<const T>(7);
  params.next_scale = arguments.buffer<const float>(8);
  params.next_bias = arguments.buffer<const float>(9);
  ConvPlan plan{};
  plan.kernel = "expand_reduce";
  return launch_expand_reduce<T, kReduced>(plan, params, nullptr);
}

const KernelRegistration kRegistrations[] = {{"hopper_expand_reduce", expand_reduce}};

}  // namespace
}  // namespace rnc
