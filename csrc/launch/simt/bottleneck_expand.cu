#include "launch/bottleneck_expand_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status expand_with_projection_by<Generation::kSimt>(const ConvPlan&, DType,
                                                             const Conv2dProblem&,
                                                             const BottleneckExpandParams&, Stream);

}  // namespace rnc
