#include "launch/bottleneck_expand_dgrad_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status bottleneck_expand_dgrad_by<Generation::kSimt>(const ConvPlan&, DType,
                                                              const BottleneckExpandDgradParams&,
                                                              Stream);

}  // namespace rnc
