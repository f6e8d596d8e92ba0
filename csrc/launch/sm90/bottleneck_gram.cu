#include "launch/pixel_product_kernels.h"
#include "launch/sm90/mainloops.h"

namespace rnc {

template Status bottleneck_gram_by<Generation::kSm90>(const ConvPlan&, DType,
                                                      const BottleneckGramParams&, Stream);

}  // namespace rnc
