#include "launch/conv_wgrad_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status conv_wgrad_by<Generation::kSimt>(const ConvPlan&, DType, const ConvWgradParams&,
                                                 Stream);

}  // namespace rnc
