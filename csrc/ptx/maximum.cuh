// max.NaN (sm_80): the larger of two floats in one instruction; NaN where either is, and +0 is
// larger than -0.
#pragma once

#include "ptx/keywords.h"

namespace rnc::ptx {

__device__ __forceinline__ float max_or_nan(float a, float b) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
  float larger;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
  return larger;
#else
  if (a == b) return signbit(a) ? b : a;
  return a < b ? b : b != b ? b : a;
#endif
}

}  // namespace rnc::ptx
