// Elementwise kernels work on groups of 8 consecutive elements: whole 16-byte accesses for every
// dtype, and exactly one byte of a bit mask per group, so that no two threads share one.
#pragma once

#include <initializer_list>

#include "common/dtype.h"
#include "common/vec.h"
#include "ptx/memory.cuh"

namespace rnc {

constexpr int kGroupElements = 8;
constexpr int kGroupThreads = 256;
constexpr int64_t kGroupBlockElements = int64_t(kGroupElements) * kGroupThreads;

inline int64_t group_blocks(int64_t size) {
  return (size + kGroupBlockElements - 1) / kGroupBlockElements;
}

// Whether groups of this tensor can move as 16-byte vectors. True for null.
inline bool is_vector_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline bool are_vector_aligned(std::initializer_list<const void*> tensors) {
  for (const void* tensor : tensors) {
    if (!is_vector_aligned(tensor)) return false;
  }
  return true;
}

// Whether every row of a matrix with rows of so many elements starts at such a vector if the first
// does.
template <class T>
bool rows_are_vectors(int64_t row_stride) {
  return row_stride * int64_t(sizeof(T)) % 16 == 0;
}

template <class T>
struct ElementGroup {
  using Acc = AccOf<T>;
  static constexpr int kVectorElements = 16 / sizeof(T);
  using Vector = Vec<T, kVectorElements>;

  T v[kGroupElements];

  __device__ __forceinline__ Acc widened(int e) const { return Acc(widen(v[e])); }

  __device__ __forceinline__ void widen_to(Acc (&values)[kGroupElements]) const {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) values[e] = widened(e);
  }
  // Rounds.
  __device__ __forceinline__ void narrow_from(const Acc (&values)[kGroupElements]) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; e += 2) narrow_two(values[e], values[e + 1], &v[e]);
  }

  // Keeps the elements whose bit is set; the others become zero.
  __device__ __forceinline__ void gate(unsigned bits) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      if (!(bits >> e & 1u)) v[e] = narrow_to<T>(Acc(0));
    }
  }

  // Loads elements offset .. offset + count - 1; the others are left undefined.
  __device__ __forceinline__ void load(const T* p, int64_t offset, int count, bool aligned) {
    if (aligned && count == kGroupElements) {
      RNC_UNROLL
      for (int i = 0; i < kGroupElements; i += kVectorElements) {
        const Vector part = ptx::load_global_input(reinterpret_cast<const Vector*>(p + offset + i));
        RNC_UNROLL
        for (int e = 0; e < kVectorElements; ++e) v[i + e] = part.v[e];
      }
    } else {
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        if (e < count) v[e] = ptx::load_global_input(p + offset + e);
      }
    }
  }

  __device__ __forceinline__ void store(T* p, int64_t offset, int count, bool aligned) const {
    if (aligned && count == kGroupElements) {
      RNC_UNROLL
      for (int i = 0; i < kGroupElements; i += kVectorElements) {
        Vector part;
        RNC_UNROLL
        for (int e = 0; e < kVectorElements; ++e) part.v[e] = v[i + e];
        ptx::store_global(reinterpret_cast<Vector*>(p + offset + i), part);
      }
    } else {
      RNC_UNROLL
      for (int e = 0; e < kGroupElements; ++e) {
        if (e < count) ptx::store_global(p + offset + e, v[e]);
      }
    }
  }
};

// The group of the calling thread: its first element, and how many of its elements exist.
struct GroupPosition {
  int64_t offset;
  int count;

  explicit __device__ __forceinline__ GroupPosition(int64_t size)
      : offset(int64_t(blockIdx.x) * kGroupBlockElements + int64_t(threadIdx.x) * kGroupElements) {
    count = int(min(size - offset, int64_t(kGroupElements)));
  }
};

}  // namespace rnc
