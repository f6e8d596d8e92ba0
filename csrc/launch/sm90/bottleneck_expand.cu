#include "launch/bottleneck_expand_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status expand_with_projection_by<Generation::kSm90>(const ConvPlan&, DType,
                                                             const Conv2dProblem&,
                                                             const BottleneckExpandParams&, Stream);

}  // namespace rnc
