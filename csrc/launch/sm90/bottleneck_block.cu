#include "launch/implicit_gemm.h"
#include "launch/sm90/bottleneck_block.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template <>
Status bottleneck_block_by<Generation::kSm90>(const ConvPlan& plan, DType dtype,
                                              const BottleneckBlockParams& params, Stream stream) {
  return with_element_type<Generation::kSm90>(dtype, [&](auto type) {
    return launch_bottleneck_block<decltype(type)>(plan, params, stream);
  });
}

}  // namespace rnc
