#include "launch/pixel_product_kernels.h"
#include "launch/sm80/mainloops.h"

namespace rnc {

template Status bottleneck_gram_by<Generation::kSm80>(const ConvPlan&, DType,
                                                      const BottleneckGramParams&, Stream);

}  // namespace rnc
