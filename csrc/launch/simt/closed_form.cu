#include "launch/closed_form_kernels.h"

namespace rnc {

template Status closed_form_filter_sums_by<Generation::kSimt>(DType,
                                                              const ClosedFormFinalizeParams&,
                                                              Stream);
template Status closed_form_filter_gradient_by<Generation::kSimt>(
    DType, const ClosedFormBackwardFinalizeParams&, Stream);
template Status closed_form_operand_matrix_by<Generation::kSimt>(
    DType, const ClosedFormBackwardFinalizeParams&, Stream);

}  // namespace rnc
