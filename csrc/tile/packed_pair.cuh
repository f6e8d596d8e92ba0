// The elements in one register of a matrix instruction's operand: a float32 as TF32, or two of 16
// bits, the lower column in the lower half.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "ptx/keywords.h"
#include "ptx/numeric_types.h"
#include "ptx/tensor_float32.cuh"

namespace rnc {

template <class T>
__device__ __forceinline__ uint32_t pack_pair(float first, float second) {
  static_assert(sizeof(T) == 2);
  Vec<T, 2> pair;
  narrow_two(first, second, pair.v);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

template <class T>
__device__ __forceinline__ Vec<float, 2> unpack_pair(uint32_t bits) {
  static_assert(sizeof(T) == 2);
  if constexpr (std::is_same_v<T, bfloat16>) {  // the upper half of a float: one instruction each
    return {{__int_as_float(int(bits << 16)), __int_as_float(int(bits & 0xFFFF0000u))}};
  }
  Vec<T, 2> pair;
  memcpy(&pair, &bits, sizeof pair);
  return {{widen(pair.v[0]), widen(pair.v[1])}};
}

// Elements of T in a register of an operand: such a pair, or a float32, which goes back as TF32.
template <class T>
inline constexpr int kRegisterElements = 4 / int(sizeof(T));

template <class T>
__device__ __forceinline__ uint32_t
pack_register(const Vec<float, kRegisterElements<T>>& elements) {
  if constexpr (std::is_same_v<T, float>) {
    return ptx::round_to_tensor_float32(uint32_t(__float_as_int(elements.v[0])));
  } else {
    return pack_pair<T>(elements.v[0], elements.v[1]);
  }
}

template <class T>
__device__ __forceinline__ Vec<float, kRegisterElements<T>> unpack_register(uint32_t bits) {
  if constexpr (std::is_same_v<T, float>) {
    return {{__int_as_float(int(bits))}};
  } else {
    return unpack_pair<T>(bits);
  }
}

}  // namespace rnc
