#include "launch/bottleneck_expand_dgrad_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status bottleneck_expand_dgrad_by<Generation::kSm90>(const ConvPlan&, DType,
                                                              const BottleneckExpandDgradParams&,
                                                              Stream);

}  // namespace rnc
