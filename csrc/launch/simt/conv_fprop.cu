#include "launch/conv_fprop_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status conv_fprop_by<Generation::kSimt>(const ConvPlan&, DType, const ConvFpropParams&,
                                                 Stream);

}  // namespace rnc
