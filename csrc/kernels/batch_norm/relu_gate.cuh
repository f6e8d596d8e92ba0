#pragma once

#include "kernels/batch_norm/batch_norm_params.h"
#include "kernels/fusion/activation.cuh"
#include "ptx/memory.cuh"

namespace rnc {

// ReluGate with its types: which elements of dz pass back through the ReLU.
template <class T>
struct ReluGateView {
  using Acc = AccOf<T>;
  const uint8_t* mask;
  const Acc* scale;
  const Acc* bias;

  explicit __device__ __forceinline__ ReluGateView(const ReluGate& gate)
      : mask(gate.mask),
        scale(static_cast<const Acc*>(gate.scale)),
        bias(static_cast<const Acc*>(gate.bias)) {}

  // Element `offset` of the tensor, with its channel and the value of y there.
  __device__ __forceinline__ bool passes(int64_t offset, int32_t channel, Acc y) const {
    if (mask) return (ptx::load_global_nc(mask + offset / 8) >> (offset % 8)) & 1;
    if (scale) {
      return relu_passes<T>(
          affine(y, ptx::load_global_nc(scale + channel), ptx::load_global_nc(bias + channel)));
    }
    return true;
  }
};

}  // namespace rnc
