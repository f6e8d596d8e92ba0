#include "launch/generations.h"

namespace rnc {

template <>
Status conv_max_pool_by<Generation::kSimt>(const ConvPlan& plan, DType, const ConvMaxPoolParams&,
                                           Stream) {
  return {plan.why};
}

}  // namespace rnc
