#include "launch/pixel_product_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status bottleneck_expand_wgrad_by<Generation::kSimt>(const ConvPlan&, DType,
                                                              const BottleneckExpandWgradParams&,
                                                              Stream);

}  // namespace rnc
