// Prologues: what happens to an activation between memory and the multiplication. A prologue sees
// whether the element lies inside the image and must return 0 when it does not: padding is zero
// AFTER the activation.
#pragma once

#include "kernels/fusion/activation.cuh"
#include "ptx/memory.cuh"

namespace rnc {

template <class T>
struct Identity {
  using Acc = AccOf<T>;

  __device__ __forceinline__ Acc apply(const T* x, int64_t offset, int32_t /*channel*/,
                                       bool valid) const {
    return valid ? Acc(widen(ptx::load_global_nc(x + offset))) : Acc(0);
  }
};

// Normalise-on-load: relu(x * scale + bias), rounded to T as if it had been stored and read back.
template <class T>
struct ScaleBiasRelu {
  using Acc = AccOf<T>;
  const Acc* scale;  // [C]
  const Acc* bias;   // [C]

  __device__ __forceinline__ Acc apply(const T* x, int64_t offset, int32_t channel,
                                       bool valid) const {
    if (!valid) return Acc(0);
    const Acc v = Acc(widen(ptx::load_global_nc(x + offset)));
    return Acc(widen(narrow_to<T>(relu(
        affine(v, ptx::load_global_nc(scale + channel), ptx::load_global_nc(bias + channel))))));
  }
};

}  // namespace rnc
