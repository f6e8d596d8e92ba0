#pragma once

namespace rnc {

// N elements that move as one access.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

}  // namespace rnc
