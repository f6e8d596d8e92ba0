#include "launch/conv_fprop_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status conv_fprop_by<Generation::kSm90>(const ConvPlan&, DType, const ConvFpropParams&,
                                                 Stream);

}  // namespace rnc
