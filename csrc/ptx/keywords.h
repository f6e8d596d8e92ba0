// CUDA's keywords, built-in variables, warp functions and atomics, for nvcc and for a host
// compiler. Kernels include this and never cuda_runtime.h. Plain __shared__ does not exist on the
// host on purpose: it would escape the emulator's checks; use dynamic_smem().
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define RNC_STRING(...) #__VA_ARGS__
// What the compiler may rely on.
#define RNC_ASSUME(condition) __builtin_assume(condition)
#define RNC_UNROLL _Pragma("unroll")
#define RNC_UNROLL_BY(count) \
  _Pragma(RNC_STRING(unroll count))  // where a full one costs compile time

namespace rnc {

namespace detail {
struct alignas(1024) SharedBytes {
  unsigned char bytes[1024];
};
// How many stages of operands a storage has, where its main loop counts them (Hopper's); else 0.
template <class Storage>
inline constexpr size_t kStagesOf = 0;
template <class Storage>
  requires requires { sizeof(Storage::mainloop.stages); }
inline constexpr size_t kStagesOf<Storage> =
    sizeof(Storage::mainloop.stages) / sizeof(Storage::mainloop.stages[0]);
// Its size and its stages are part of its name, so that the build can read from the PTX how much of
// it a kernel needs, and for what (cmake/compile_cuda.py).
template <size_t kBytes, size_t kStages>
extern __shared__ SharedBytes dynamic_smem_of[];
}  // namespace detail

// The block's dynamic shared memory seen as one struct, 1024-byte aligned.
template <class Storage>
__device__ __forceinline__ Storage& dynamic_smem() {
  return reinterpret_cast<Storage&>(
      detail::dynamic_smem_of<sizeof(Storage), detail::kStagesOf<Storage>>);
}

}  // namespace rnc

#else

#include <math.h>

#include <cstring>
#include <type_traits>

#include "emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// Unrolling here doubles the compile time and gains nothing, plain or checked.
#define RNC_UNROLL
#define RNC_UNROLL_BY(count)
#define RNC_ASSUME(condition)

#define threadIdx (::rnc::emulator::current->thread_idx)
#define blockIdx (*::rnc::emulator::current->block_idx)
#define blockDim (*::rnc::emulator::current->block_dim)
#define gridDim (*::rnc::emulator::current->grid_dim)

namespace rnc {

template <class Storage>
__forceinline__ Storage& dynamic_smem() {
  static_assert(alignof(Storage) <= 1024, "shared memory is 1024-byte aligned");
  return *static_cast<Storage*>(emulator::dynamic_smem(sizeof(Storage)));
}

namespace emulator {

template <class T>
__forceinline__ T shuffle_value(uint32_t mask, T value, ShuffleMode mode, int operand, int width) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8, "shuffles move up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(mask, bits, mode, operand, width);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace emulator
}  // namespace rnc

// ------------------------------------------------------------------ synchronisation and warp
// collectives
__forceinline__ void __syncthreads() { ::rnc::emulator::syncthreads(); }
__forceinline__ void __syncwarp(unsigned mask = 0xFFFFFFFFu) { ::rnc::emulator::syncwarp(mask); }
// Conflicts between blocks are reported, not ordered; within a block the emulator runs one thread
// at a time.
__forceinline__ void __threadfence() {}
__forceinline__ void __threadfence_block() {}
[[noreturn]] __forceinline__ void __trap() { ::rnc::emulator::trap("__trap()"); }

template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  return ::rnc::emulator::shuffle_value(mask, value, ::rnc::emulator::ShuffleMode::kIndex, lane,
                                        width);
}
template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return ::rnc::emulator::shuffle_value(mask, value, ::rnc::emulator::ShuffleMode::kUp,
                                        static_cast<int>(delta), width);
}
template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  return ::rnc::emulator::shuffle_value(mask, value, ::rnc::emulator::ShuffleMode::kDown,
                                        static_cast<int>(delta), width);
}
template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
  return ::rnc::emulator::shuffle_value(mask, value, ::rnc::emulator::ShuffleMode::kXor, lane_mask,
                                        width);
}
__forceinline__ unsigned __ballot_sync(unsigned mask, int predicate) {
  return ::rnc::emulator::ballot(mask, predicate != 0);
}
__forceinline__ int __any_sync(unsigned mask, int predicate) {
  return ::rnc::emulator::ballot(mask, predicate != 0) != 0;
}
__forceinline__ int __all_sync(unsigned mask, int predicate) {
  return ::rnc::emulator::ballot(mask, predicate == 0) == 0;
}

// ------------------------------------------------------------------ integer atomics; float atomics
// are left out: not deterministic
#define RNC_ATOMIC(name, T, op)                                                                \
  __forceinline__ T name(T* address, T operand) {                                              \
    return static_cast<T>(::rnc::emulator::atomic(::rnc::emulator::AtomicOp::op, address,      \
                                                  sizeof(T), static_cast<uint64_t>(operand))); \
  }
#define RNC_ATOMICS(T, min_op, max_op)                                                          \
  RNC_ATOMIC(atomicAdd, T, kAdd)                                                                \
  RNC_ATOMIC(atomicMin, T, min_op)                                                              \
  RNC_ATOMIC(atomicMax, T, max_op)                                                              \
  RNC_ATOMIC(atomicAnd, T, kAnd)                                                                \
  RNC_ATOMIC(atomicOr, T, kOr)                                                                  \
  RNC_ATOMIC(atomicXor, T, kXor)                                                                \
  RNC_ATOMIC(atomicExch, T, kExchange)                                                          \
  __forceinline__ T atomicCAS(T* address, T compare, T value) {                                 \
    return static_cast<T>(                                                                      \
        ::rnc::emulator::atomic(::rnc::emulator::AtomicOp::kCompareAndSwap, address, sizeof(T), \
                                static_cast<uint64_t>(value), static_cast<uint64_t>(compare))); \
  }
RNC_ATOMICS(int, kMinSigned, kMaxSigned)
RNC_ATOMICS(unsigned, kMin, kMax)
RNC_ATOMICS(unsigned long long, kMin, kMax)
#undef RNC_ATOMICS
#undef RNC_ATOMIC

// ------------------------------------------------------------------ arithmetic
__forceinline__ int __popc(unsigned x) { return __builtin_popcount(x); }
__forceinline__ int __ffs(int x) { return __builtin_ffs(x); }
__forceinline__ int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
__forceinline__ unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<uint64_t>(a) * b) >> 32);
}
__forceinline__ float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
__forceinline__ int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
#if !defined(__GLIBC_PREREQ) || !__GLIBC_PREREQ(2, 42)  // from then on <math.h> has them
__forceinline__ float rsqrtf(float x) { return 1.0f / sqrtf(x); }
__forceinline__ double rsqrt(double x) { return 1.0 / sqrt(x); }
#endif

// As in CUDA, mixed arithmetic types are converted first, and of a number and a NaN the number
// wins.
template <class A, class B>
__forceinline__ constexpr std::common_type_t<A, B> max(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return x > y || y != y ? x : y;
  return x > y ? x : y;
}
template <class A, class B>
__forceinline__ constexpr std::common_type_t<A, B> min(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  if constexpr (std::is_floating_point_v<std::common_type_t<A, B>>) return x < y || y != y ? x : y;
  return x < y ? x : y;
}

#endif
