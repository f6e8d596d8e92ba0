// The Ampere main loops as they are shipped, with everything that synchronises around them: what
// tests/mutation deletes from.
#include "kernels/conv/sm80/gathered.cuh"
#include "kernels/conv/sm80/mainloop.cuh"
#include "pointwise.h"

namespace rnc {
namespace {

using Prologue = ScaleBiasRelu<bfloat16>;
using Pixels = PixelRows<bfloat16, Prologue>;
using Filters = FilterRows<bfloat16>;

// buffers: y, partials, x, weight, scale, bias; numbers: pixels, channels, filters
template <class Mainloop>
Status normalised_conv_with_statistics(const LaunchArguments& arguments) {
  const Prologue prologue{arguments.buffer<const float>(4), arguments.buffer<const float>(5)};
  return pointwise_with_statistics<Mainloop, bfloat16>(arguments, prologue);
}

const KernelRegistration kRegistrations[] = {
    {"normalised_conv_with_statistics",
     normalised_conv_with_statistics<Sm80Mainloop<Sm80NarrowTile, Pixels, Filters>>},
    {"gathered_conv_with_statistics",
     normalised_conv_with_statistics<Sm80GatheredMainloop<Sm80NarrowTile, Pixels, Filters>>},
};

}  // namespace
}  // namespace rnc
