// Loads and stores of 1 to 16 bytes as ONE access: ld.global, ld.global.nc, st.global, ld.shared,
// st.shared. Kernels use them for all global memory, of which the emulator checks and counts
// exactly these, and for vectors in shared memory: compilers may split a raw dereference of one.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

#include "ptx/keywords.h"

namespace rnc::ptx {

template <class T>
inline constexpr bool kIsOneAccess =
    std::is_trivially_copyable_v<T> && sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0;

#if defined(__CUDACC__)

namespace detail {
template <size_t kBytes>
struct Register;
template <>
struct Register<1> {
  using type = unsigned char;
};
template <>
struct Register<2> {
  using type = unsigned short;
};
template <>
struct Register<4> {
  using type = unsigned int;
};
template <>
struct Register<8> {
  using type = uint2;
};
template <>
struct Register<16> {
  using type = uint4;
};
template <class T>
using RegisterOf = typename Register<sizeof(T)>::type;
}  // namespace detail

// Address aligned to sizeof(T).
template <class T>
__device__ __forceinline__ T load_global(const T* address) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  const auto bits = *reinterpret_cast<const detail::RegisterOf<T>*>(address);
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// The read-only path: nothing may write the address during the launch, not even before a wait in it
// (grid_dependency.cuh).
template <class T>
__device__ __forceinline__ T load_global_nc(const T* address) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  const auto bits = __ldg(reinterpret_cast<const detail::RegisterOf<T>*>(address));
  T value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
__device__ __forceinline__ void store_global(T* address, std::type_identity_t<T> value) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  detail::RegisterOf<T> bits;
  memcpy(&bits, &value, sizeof value);
  *reinterpret_cast<detail::RegisterOf<T>*>(address) = bits;
}

// Shared memory: once inlined, the compiler knows where the address comes from.
template <class T>
__device__ __forceinline__ T load_shared(const T* address) {
  return load_global(address);
}

template <class T>
__device__ __forceinline__ void store_shared(T* address, std::type_identity_t<T> value) {
  store_global(address, value);
}

#else

template <class T>
__device__ __forceinline__ T load_global(const T* address) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  T value;
  if (__builtin_expect(emulator::must_observe(), 0)) {
    emulator::load_global(&value, address, sizeof value);
    return value;
  }
  if (__builtin_expect(reinterpret_cast<uintptr_t>(address) % sizeof value != 0, 0)) {
    emulator::misaligned_access(address, sizeof value, false);
  }
  std::memcpy(&value, address, sizeof value);
  return value;
}

template <class T>
__device__ __forceinline__ T load_global_nc(const T* address) {
  return load_global(address);
}

template <class T>
__device__ __forceinline__ void store_global(T* address, std::type_identity_t<T> value) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  if (__builtin_expect(emulator::must_observe(), 0)) {
    emulator::store_global(address, &value, sizeof value);
    return;
  }
  if (__builtin_expect(reinterpret_cast<uintptr_t>(address) % sizeof value != 0, 0)) {
    emulator::misaligned_access(address, sizeof value, true);
  }
  std::memcpy(static_cast<void*>(address), &value, sizeof value);
}

// The instrumented library sees these like every other access of shared memory.
template <class T>
__device__ __forceinline__ T load_shared(const T* address) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  T value;
  std::memcpy(&value, address, sizeof value);
  return value;
}

template <class T>
__device__ __forceinline__ void store_shared(T* address, std::type_identity_t<T> value) {
  static_assert(kIsOneAccess<T>, "1, 2, 4, 8 or 16 trivially copyable bytes");
  std::memcpy(static_cast<void*>(address), &value, sizeof value);
}

#endif

// For code of kernels that may start early: by the read-only path on GPUs where none does. From
// sm_90 on the path might bring what was there before the wait, and the compiler, too.
template <class T>
__device__ __forceinline__ T load_global_input(const T* address) {
#if defined(__CUDACC__) && __CUDA_ARCH__ < 900
  return load_global_nc(address);
#else
  return load_global(address);
#endif
}

// Asks for bytes to be brought into the L2 cache (sm_90): a multiple of 16 at a multiple of 16.
__device__ __forceinline__ void prefetch_l2(const void* address, uint32_t bytes) {
#if defined(__CUDACC__)
  asm volatile(
      "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
      "r"(bytes)
      : "memory");
#else
  emulator::prefetch_l2(address, bytes);
#endif
}

}  // namespace rnc::ptx
