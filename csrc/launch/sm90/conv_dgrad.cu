#include "launch/conv_dgrad_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status conv_dgrad_by<Generation::kSm90>(const ConvPlan&, DType, const ConvDgradParams&,
                                                 Stream);

}  // namespace rnc
