#include "launch/conv_wgrad_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status conv_wgrad_by<Generation::kSm90>(const ConvPlan&, DType, const ConvWgradParams&,
                                                 Stream);

}  // namespace rnc
