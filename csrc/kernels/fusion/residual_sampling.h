// Which elements of a tensor a block's shortcut adds, as a struct that launchers and bindings fill.
#pragma once

#include <cstdint>

#include "ptx/numeric_types.h"

namespace rnc {

// Of a tensor [N, H, W, C], to an output [N, P, Q, K]: to pixel (p, q) the channels of pixel (p
// stride, q stride), to channels from C on nothing. stride 0: the tensor has the output's shape.
struct ResidualSampling {
  int32_t H, W, C, stride;

  RNC_HOST_DEVICE bool is_dense() const { return stride == 0; }
};

}  // namespace rnc
