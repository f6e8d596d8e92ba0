#include "launch/implicit_gemm.h"
#include "launch/sm90/bottleneck_expand_reduce.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template <>
Status bottleneck_expand_reduce_by<Generation::kSm90>(const ConvPlan& plan, DType dtype,
                                                      const BottleneckExpandReduceParams& params,
                                                      Stream stream) {
  return with_element_type<Generation::kSm90>(dtype, [&](auto type) {
    using T = decltype(type);
    if (params.L == 64) return launch_expand_reduce<T, 64>(plan, params, stream);
    if (params.L == 128) return launch_expand_reduce<T, 128>(plan, params, stream);
    return launch_expand_reduce<T, 256>(plan, params, stream);
  });
}

}  // namespace rnc
