// The gradient of a block's other branch, as dgrad's epilogue adds it: never spread out in memory
// where that branch sampled the image or added channels, never gated in memory where a ReLU
// follows.
#pragma once

#include "common/fast_divmod.h"
#include "tile/element_group.cuh"

namespace rnc {

// values [N, P, Q, channels] of an image [N, H, W, C]: pixel (p stride, q stride) has element (p,
// q), the others have none; of more channels than C the first ones count.
template <class T>
struct BranchGradient {
  const T* values;      // null: there is no other branch
  const uint8_t* mask;  // bit i % 8 of byte i / 8: whether element i counts; or null: all do
  int32_t channels;
  int32_t P, Q;
  FastDivmod by_W, by_H, by_stride;

  static BranchGradient of(const void* values, const uint8_t* mask, int32_t channels, int32_t H,
                           int32_t W, int32_t stride) {
    return {static_cast<const T*>(values), mask,          channels,      (H - 1) / stride + 1,
            (W - 1) / stride + 1,          FastDivmod(W), FastDivmod(H), FastDivmod(stride)};
  }

  // Whether every pixel has an element.
  __device__ __forceinline__ bool is_dense() const { return values && by_stride.divisor == 1; }

  // Loads what is added to `count` channels of a pixel; false: nothing is.
  __device__ __forceinline__ bool load(ElementGroup<T>& out, int64_t pixel, int32_t channel,
                                       int count, bool aligned) const {
    if (!values || !sample(pixel)) return false;
    const int64_t offset = pixel * channels + channel;
    out.load(values, offset, count, aligned);
    if (mask) out.gate(ptx::load_global_input(mask + offset / kGroupElements));
    return true;
  }

 private:
  // Turns a pixel of the image into the element that belongs to it, if one does.
  __device__ __forceinline__ bool sample(int64_t& pixel) const {
    if (by_stride.divisor == 1) return true;
    // [N H W] -> [N, H, W] -> [N, P, Q]
    int32_t h, w, below, beside;
    const int32_t n = by_H.divide(by_W.divide(int32_t(pixel), w), h);
    const int32_t p = by_stride.divide(h, below), q = by_stride.divide(w, beside);
    pixel = (int64_t(n) * P + p) * Q + q;
    return below == 0 && beside == 0;
  }
};

}  // namespace rnc
