// Division by a launch-time constant as a multiply and a shift (Granlund and Montgomery, 1994).
// Valid for 0 <= n < 2^31.
#pragma once

#include <cstdint>

#include "ptx/numeric_types.h"

namespace rnc {

struct FastDivmod {
  uint32_t divisor = 1;
  uint32_t multiplier = 1;
  uint32_t shift = 0;

  FastDivmod() = default;
  explicit FastDivmod(int32_t d) : divisor(uint32_t(d)) {
    while ((uint64_t(1) << shift) < divisor) ++shift;
    multiplier = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - divisor)) / divisor + 1);
  }

  RNC_HOST_DEVICE int32_t divide(int32_t n) const {
    const uint32_t high = uint32_t((uint64_t(uint32_t(n)) * multiplier) >> 32);
    return int32_t((high + uint32_t(n)) >> shift);
  }
  RNC_HOST_DEVICE int32_t divide(int32_t n, int32_t& remainder) const {
    const int32_t quotient = divide(n);
    remainder = n - quotient * int32_t(divisor);
    return quotient;
  }
};

}  // namespace rnc
