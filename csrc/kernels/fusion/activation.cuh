// The arithmetic that fused kernels must agree on to the last bit: batch norm's affine, ReLU and
// the ReLU's gate.
#pragma once

#include "common/dtype.h"
#include "ptx/keywords.h"

namespace rnc {

template <class Acc>
__device__ __forceinline__ Acc affine(Acc y, Acc scale, Acc bias) {
  return fma(y, scale, bias);
}

// NaN passes, as in torch.
template <class Acc>
__device__ __forceinline__ Acc relu(Acc v) {
  return v <= Acc(0) ? Acc(0) : v;
}

// Whether the gradient passes a ReLU whose input was v: judged on the value as it is stored in T,
// and NaN passes, as in torch.
template <class T, class Acc>
__device__ __forceinline__ bool relu_passes(Acc v) {
  return !(widen(narrow_to<T>(v)) <= Acc(0));
}

}  // namespace rnc
