// The shortcut of a block as the pass that ends the block adds it: two views of it. Option A (He et
// al. 2015, sec. 3.3) samples the block's input and adds channels of zeros: neither the samples nor
// the zeros are ever in memory.
#pragma once

#include "common/fast_divmod.h"
#include "kernels/fusion/residual_sampling.h"
#include "tile/element_group.cuh"

namespace rnc {

// A residual of the output's shape.
template <class T>
struct DenseResidual {
  const T* values = nullptr;  // null: nothing is added

  DenseResidual() = default;
  DenseResidual(const void* values, const ResidualSampling&)
      : values(static_cast<const T*>(values)) {}

  __device__ __forceinline__ bool is_dense() const { return values; }

  // Loads what is added to `count` channels of the output's pixel, at `offset` in the tensor.
  __device__ __forceinline__ void load(ElementGroup<T>& out, int64_t offset, int64_t, int32_t,
                                       int count, bool aligned) const {
    if (values) out.load(values, offset, count, aligned);
  }
};

// One that may be sampled.
template <class T>
struct SampledResidual {
  const T* values = nullptr;  // null: nothing is added
  ResidualSampling sampling{};
  FastDivmod by_P, by_Q;

  SampledResidual() = default;
  SampledResidual(const void* values, const ResidualSampling& sampling)
      : values(static_cast<const T*>(values)), sampling(sampling) {
    if (sampling.is_dense()) return;
    by_P = FastDivmod(outputs(sampling.H));
    by_Q = FastDivmod(outputs(sampling.W));
  }

  // Whether there is one, of the output's shape.
  __device__ __forceinline__ bool is_dense() const { return values && sampling.is_dense(); }

  // Loads what is added to `count` channels of the output's pixel; offset: where these are in a
  // tensor of the output's shape.
  __device__ __forceinline__ void load(ElementGroup<T>& out, int64_t offset, int64_t pixel,
                                       int32_t channel, int count, bool aligned) const {
    if (is_dense()) {
      out.load(values, offset, count, aligned);
    } else if (values) {
      load_sampled(out, pixel, channel, count, aligned);
    }
  }

  // The same of a tensor that does not have that shape.
  __device__ __forceinline__ void load_sampled(ElementGroup<T>& out, int64_t pixel, int32_t channel,
                                               int count, bool aligned) const {
    const int present = min(count, sampling.C - channel);
    if (present < count) out.gate(0);
    if (present > 0) out.load(values, source(pixel) * sampling.C + channel, present, aligned);
  }

 private:
  int32_t outputs(int32_t size) const { return (size - 1) / sampling.stride + 1; }

  // [N P Q] -> [N, P, Q] -> [N H W]
  __device__ __forceinline__ int64_t source(int64_t pixel) const {
    int32_t p, q;
    const int32_t n = by_P.divide(by_Q.divide(int32_t(pixel), q), p);
    return (int64_t(n) * sampling.H + p * sampling.stride) * sampling.W + q * sampling.stride;
  }
};

}  // namespace rnc
