#include "launch/pixel_product_kernels.h"
#include "launch/sm80/mainloops.h"

namespace rnc {

template Status bottleneck_expand_wgrad_by<Generation::kSm80>(const ConvPlan&, DType,
                                                              const BottleneckExpandWgradParams&,
                                                              Stream);

}  // namespace rnc
