// bfloat16 and float16: CUDA's types on the device, equal-layout stand-ins on the host, so that the
// emulated build needs no CUDA headers. Conversions round to nearest even on both sides.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define RNC_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define RNC_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace rnc {

#if defined(__CUDACC__)

using bfloat16 = __nv_bfloat16;
using float16 = __half;

RNC_HOST_DEVICE float widen(bfloat16 v) { return __bfloat162float(v); }
RNC_HOST_DEVICE float widen(float16 v) { return __half2float(v); }
RNC_HOST_DEVICE void narrow(float v, bfloat16& out) { out = __float2bfloat16_rn(v); }
RNC_HOST_DEVICE void narrow(float v, float16& out) { out = __float2half_rn(v); }

// Two at once: one instruction instead of two slow ones.
RNC_HOST_DEVICE void narrow_two(float first, float second, bfloat16* out) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(first, second);
  out[0] = two.x, out[1] = two.y;
}
RNC_HOST_DEVICE void narrow_two(float first, float second, float16* out) {
  const __half2 two = __floats2half2_rn(first, second);
  out[0] = two.x, out[1] = two.y;
}

#else

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

RNC_HOST_DEVICE float widen(bfloat16 v) {
  const uint32_t bits = uint32_t(v.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
RNC_HOST_DEVICE void narrow(float v, bfloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  const uint32_t rounded = bits + 0x7FFFu + ((bits >> 16) & 1u);
  out.bits = is_nan ? uint16_t(0x7FFF) : uint16_t(rounded >> 16);
}
RNC_HOST_DEVICE float widen(float16 v) {
  _Float16 half;
  std::memcpy(&half, &v.bits, sizeof half);
  return float(half);
}
RNC_HOST_DEVICE void narrow(float v, float16& out) {
  const _Float16 half = _Float16(v);
  std::memcpy(&out.bits, &half, sizeof half);
}

#endif

RNC_HOST_DEVICE float widen(float v) { return v; }
RNC_HOST_DEVICE double widen(double v) { return v; }
RNC_HOST_DEVICE void narrow(float v, float& out) { out = v; }
RNC_HOST_DEVICE void narrow(double v, double& out) { out = v; }

// Rounds an accumulator to the storage type T.
template <class T, class Acc>
RNC_HOST_DEVICE T narrow_to(Acc v) {
  T out;
  narrow(v, out);
  return out;
}

// The same for two neighbours.
template <class T, class Acc>
RNC_HOST_DEVICE void narrow_two(Acc first, Acc second, T* out) {
  narrow(first, out[0]);
  narrow(second, out[1]);
}

}  // namespace rnc
