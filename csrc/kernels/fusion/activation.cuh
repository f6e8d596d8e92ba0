// The arithmetic that fused kernels must agree on to the last bit: batch norm's affine, ReLU and
// the ReLU's gate.
#pragma once

#include "common/dtype.h"
#include "ptx/keywords.h"
#include "ptx/maximum.cuh"

namespace rnc {

template <class Acc>
__device__ __forceinline__ Acc affine(Acc y, Acc scale, Acc bias) {
  return fma(y, scale, bias);
}

// NaN passes, as in torch.
__device__ __forceinline__ float at_least(float v, float floor) {
  return ptx::max_or_nan(v, floor);
}
__device__ __forceinline__ double at_least(double v, double floor) {
  return v <= floor ? floor : v;
}

template <class Acc>
__device__ __forceinline__ Acc relu(Acc v) {
  return at_least(v, Acc(0));
}

// Batch norm's backward: c0 g + (c1 (y - c3) + c2) for the gradient g of its output and its input
// y. Eval mode has c1 = 0: an infinite y must not turn that into NaN.
template <class Acc>
__device__ __forceinline__ Acc bn_gradient(Acc g, Acc y, Acc c0, Acc c1, Acc c2, Acc c3) {
  return fma(c0, g, c1 != Acc(0) ? c2 + c1 * (y - c3) : c2);
}

// The largest number that T rounds to zero: half of its smallest one, which is tied to even.
template <class T>
inline constexpr AccOf<T> kRoundsToZero = 0;
template <>
inline constexpr float kRoundsToZero<bfloat16> = 0x1p-134f;
template <>
inline constexpr float kRoundsToZero<float16> = 0x1p-25f;

// Whether the gradient passes a ReLU whose input was v: judged on the value as it is stored in T,
// which need not be computed for that, and NaN passes, as in torch.
template <class T, class Acc>
__device__ __forceinline__ bool relu_passes(Acc v) {
  return !(v <= kRoundsToZero<T>);
}

}  // namespace rnc
