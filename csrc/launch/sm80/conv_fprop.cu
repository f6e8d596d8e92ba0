#include "launch/conv_fprop_kernels.h"
#include "launch/sm80/mainloops.h"

namespace rnc {

template Status conv_fprop_by<Generation::kSm80>(const ConvPlan&, DType, const ConvFpropParams&,
                                                 Stream);

}  // namespace rnc
