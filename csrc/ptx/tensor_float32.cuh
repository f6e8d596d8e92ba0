// cvt.rna.tf32 (sm_80): rounds a float to tf32, which has 10 bits of mantissa; a tie goes away from
// zero. The matrix instructions drop what lies below those bits, so an operand that is not rounded
// first is truncated.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc::ptx {

// The bits of a float, as an operand of mma.sync holds them. The lower 13 of the result are not
// defined; NaN stays NaN.
__device__ __forceinline__ uint32_t round_to_tensor_float32(uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return is_nan ? 0x7FFFFFFFu : (bits + 0x1000u) & 0xFFFFE000u;
#endif
}

}  // namespace rnc::ptx
