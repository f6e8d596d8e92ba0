#include "launch/conv_dgrad_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status conv_dgrad_by<Generation::kSimt>(const ConvPlan&, DType, const ConvDgradParams&,
                                                 Stream);

}  // namespace rnc
