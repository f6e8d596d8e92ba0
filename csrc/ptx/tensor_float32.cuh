// cvt.rna.tf32 (sm_80): rounds a float to tf32, which has 10 bits of mantissa; a tie goes away from
// zero. The matrix instructions drop what lies below those bits, so an operand that is not rounded
// first is truncated.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc::ptx {

// The bits of a float, as an operand of mma.sync or wgmma holds them. The lower 13 of the result
// mean nothing: for a finite number this is an addition, infinities and NaN stay as they are.
__device__ __forceinline__ uint32_t round_to_tensor_float32(uint32_t bits) {
#if defined(__CUDACC__)
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
#else
  const bool is_finite = (bits & 0x7FFFFFFFu) < 0x7F800000u;
  return is_finite ? bits + 0x1000u : bits;
#endif
}

}  // namespace rnc::ptx
