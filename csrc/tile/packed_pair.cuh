// Two 16-bit elements in one register, as matrix instructions hold them: the lower column in the
// lower half.
#pragma once

#include <cstring>
#include <type_traits>

#include "common/vec.h"
#include "ptx/keywords.h"
#include "ptx/numeric_types.h"

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

}  // namespace rnc
