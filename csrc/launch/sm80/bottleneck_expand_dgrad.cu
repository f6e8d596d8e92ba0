#include "launch/bottleneck_expand_dgrad_kernels.h"
#include "launch/sm80/mainloops.h"

namespace rnc {

template Status bottleneck_expand_dgrad_by<Generation::kSm80>(const ConvPlan&, DType,
                                                              const BottleneckExpandDgradParams&,
                                                              Stream);

}  // namespace rnc
