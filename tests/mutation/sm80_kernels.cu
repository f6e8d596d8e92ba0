// The Ampere main loop as it is shipped, with everything that synchronises around it: what
// tests/mutation deletes from.
#include "kernels/conv/sm80/mainloop.cuh"
#include "pointwise.h"

namespace rnc {
namespace {

// buffers: y, partials, x, weight, scale, bias; numbers: pixels, channels, filters
Status normalised_conv_with_statistics(const LaunchArguments& arguments) {
  using Prologue = ScaleBiasRelu<bfloat16>;
  using Mainloop =
      Sm80Mainloop<Sm80NarrowTile, PixelRows<bfloat16, Prologue>, FilterRows<bfloat16>>;
  const Prologue prologue{arguments.buffer<const float>(4), arguments.buffer<const float>(5)};
  return pointwise_with_statistics<Mainloop, bfloat16>(arguments, prologue);
}

const KernelRegistration kRegistrations[] = {
    {"normalised_conv_with_statistics", normalised_conv_with_statistics},
};

}  // namespace
}  // namespace rnc
