#include "launch/pixel_product_kernels.h"
#include "launch/simt/mainloops.h"

namespace rnc {

template Status bottleneck_gram_by<Generation::kSimt>(const ConvPlan&, DType,
                                                      const BottleneckGramParams&, Stream);

}  // namespace rnc
