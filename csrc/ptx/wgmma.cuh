// wgmma.mma_async (sm_90a): D (64 x N, fp32) = A B or D + A B by a warpgroup, the tensor cores'
// asynchronous instruction. A and B lie in shared memory (SS) or A in registers (RS); descriptors
// of shared-memory operands come from tile/smem_descriptor.h.
//
// Element is bfloat16, float16 (64 x N x 16) or float (tf32, 64 x N x 8, which reads the upper 19
// bits of each float). N is a multiple of 8 up to 256. A transposed operand is MN-major in shared
// memory; only 16-bit types have it.
//
// Thread t of the warpgroup holds, of D: row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column
// 8 (i / 4) + 2 (t % 4) + i % 2 in d[i].
#pragma once

#include <cstdint>
#include <type_traits>

#include "ptx/keywords.h"
#include "ptx/numeric_types.h"

#if defined(__CUDACC__)
#include "ptx/wgmma_registers.h"
#else
#include "emulator/wgmma.h"
#endif

namespace rnc::ptx {

template <class Element>
inline constexpr bool kIsWgmmaElement =
    std::is_same_v<Element, bfloat16> || std::is_same_v<Element, float16> ||
    std::is_same_v<Element, float>;

namespace detail {

template <class Element, int N, bool kTransposed>
__device__ constexpr void check_wgmma() {
  static_assert(kIsWgmmaElement<Element>, "wgmma multiplies bfloat16, float16 or float (tf32)");
  static_assert(N >= 8 && N <= 256 && N % 8 == 0, "N of wgmma is a multiple of 8 from 8 to 256");
  static_assert(!kTransposed || !std::is_same_v<Element, float>,
                "tf32 operands of wgmma are K-major: only 16-bit types have MN-major ones");
}

}  // namespace detail

#if defined(__CUDACC__)

namespace detail {

template <int N>
struct WgmmaInstruction;

// clang-format off
#define RNC_WGMMA_HEAD(N, k, type, accumulate)                                                   \
  "{\n.reg .pred p;\nsetp.ne.b32 p, %" #accumulate ", 0;\n"                                      \
  "wgmma.mma_async.sync.aligned.m64n" #N k ".f32." type "." type " {" RNC_WGMMA_NAMES_##N "}, "

#define RNC_WGMMA_SHARED(N, k, type, a, b, accumulate, transpositions)                           \
  RNC_WGMMA_HEAD(N, k, type, accumulate) "%" #a ", %" #b ", p, 1, 1" transpositions ";\n}"

#define RNC_WGMMA_FRAGMENT(N, k, type, a0, a1, a2, a3, b, accumulate, transposition)             \
  RNC_WGMMA_HEAD(N, k, type, accumulate)                                                         \
  "{%" #a0 ", %" #a1 ", %" #a2 ", %" #a3 "}, %" #b ", p, 1, 1" transposition ";\n}"

#define RNC_WGMMA_INSTRUCTION(N, o0, o1, o2, o3, o4, o5, o6)                                     \
  template <>                                                                                    \
  struct WgmmaInstruction<N> {                                                                   \
    template <class Element, int kTransposeA, int kTransposeB>                                   \
    static __device__ __forceinline__ void shared(float (&d)[N / 2], uint64_t a, uint64_t b,     \
                                                  int accumulate) {                              \
      if constexpr (std::is_same_v<Element, bfloat16>) {                                         \
        asm volatile(RNC_WGMMA_SHARED(N, "k16", "bf16", o0, o1, o2, ", %" #o3 ", %" #o4)         \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB));     \
      } else if constexpr (std::is_same_v<Element, float16>) {                                   \
        asm volatile(RNC_WGMMA_SHARED(N, "k16", "f16", o0, o1, o2, ", %" #o3 ", %" #o4)          \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposeA), "n"(kTransposeB));     \
      } else {                                                                                   \
        asm volatile(RNC_WGMMA_SHARED(N, "k8", "tf32", o0, o1, o2, "")                           \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "l"(a), "l"(b), "r"(accumulate));                                         \
      }                                                                                          \
    }                                                                                            \
    template <class Element, int kTransposeB>                                                    \
    static __device__ __forceinline__ void fragment(float (&d)[N / 2], const uint32_t (&a)[4],   \
                                                    uint64_t b, int accumulate) {                \
      if constexpr (std::is_same_v<Element, bfloat16>) {                                         \
        asm volatile(RNC_WGMMA_FRAGMENT(N, "k16", "bf16", o0, o1, o2, o3, o4, o5, ", %" #o6)     \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),      \
                       "n"(kTransposeB));                                                        \
      } else if constexpr (std::is_same_v<Element, float16>) {                                   \
        asm volatile(RNC_WGMMA_FRAGMENT(N, "k16", "f16", o0, o1, o2, o3, o4, o5, ", %" #o6)      \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),      \
                       "n"(kTransposeB));                                                        \
      } else {                                                                                   \
        asm volatile(RNC_WGMMA_FRAGMENT(N, "k8", "tf32", o0, o1, o2, o3, o4, o5, "")             \
                     : RNC_WGMMA_REGISTERS_##N(d)                                                \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate));     \
      }                                                                                          \
    }                                                                                            \
  };
// clang-format on
RNC_FOR_EACH_WGMMA_WIDTH(RNC_WGMMA_INSTRUCTION)
#undef RNC_WGMMA_INSTRUCTION
#undef RNC_WGMMA_FRAGMENT
#undef RNC_WGMMA_SHARED
#undef RNC_WGMMA_HEAD

__device__ __forceinline__ void keep_register(float& value) {
  asm volatile("" : "+f"(value)::"memory");
}
__device__ __forceinline__ void keep_register(uint32_t& value) {
  asm volatile("" : "+r"(value)::"memory");
}

}  // namespace detail

#else

namespace detail {

template <class Element>
constexpr emulator::WgmmaType wgmma_type() {
  if (std::is_same_v<Element, bfloat16>) return emulator::WgmmaType::kBfloat16;
  if (std::is_same_v<Element, float16>) return emulator::WgmmaType::kFloat16;
  return emulator::WgmmaType::kTensorFloat32;
}

__forceinline__ void keep_register(const float&) {}
__forceinline__ void keep_register(const uint32_t&) {}

}  // namespace detail

#endif

// D = A B (+ D) with both operands in shared memory. The accumulators must stay untouched until
// wgmma_wait.
template <class Element, int N, bool kTransposeA = false, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_ss(float (&d)[N / 2], uint64_t descriptor_a,
                                         uint64_t descriptor_b, bool accumulate) {
  detail::check_wgmma<Element, N, kTransposeA || kTransposeB>();
#if defined(__CUDACC__)
  detail::WgmmaInstruction<N>::template shared<Element, kTransposeA, kTransposeB>(
      d, descriptor_a, descriptor_b, accumulate);
#else
  emulator::wgmma({detail::wgmma_type<Element>(), N, d, nullptr, descriptor_a, descriptor_b,
                   accumulate, kTransposeA, kTransposeB});
#endif
}

// The same with A in registers: warp w of the warpgroup holds rows 16 w to 16 w + 15 as an A
// fragment of mma m16n8k16 (tf32: m16n8k8). The fragment, too, must stay where it is, untouched,
// until wgmma_wait.
template <class Element, int N, bool kTransposeB = false>
__device__ __forceinline__ void wgmma_rs(float (&d)[N / 2], const uint32_t (&a)[4],
                                         uint64_t descriptor_b, bool accumulate) {
  detail::check_wgmma<Element, N, kTransposeB>();
#if defined(__CUDACC__)
  detail::WgmmaInstruction<N>::template fragment<Element, kTransposeB>(d, a, descriptor_b,
                                                                       accumulate);
#else
  emulator::wgmma(
      {detail::wgmma_type<Element>(), N, d, a, 0, descriptor_b, accumulate, false, kTransposeB});
#endif
}

// Orders the warpgroup's earlier accesses of registers before the wgmmas that follow. Needed before
// the first wgmma, and after registers that a wgmma uses were touched by anything but a wgmma of
// the same shape.
__device__ __forceinline__ void wgmma_fence() {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  emulator::wgmma_fence();
#endif
}

// Closes the group of wgmmas issued since the last commit.
__device__ __forceinline__ void wgmma_commit() {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  emulator::wgmma_commit();
#endif
}

// Waits until all but the newest kNewestGroupsLeft groups are complete.
template <int kNewestGroupsLeft>
__device__ __forceinline__ void wgmma_wait() {
  static_assert(kNewestGroupsLeft >= 0 && kNewestGroupsLeft <= 7,
                "wgmma.wait_group leaves 0 to 7 groups");
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewestGroupsLeft) : "memory");
#else
  emulator::wgmma_wait(kNewestGroupsLeft);
#endif
}

// Tells the device compiler that registers are in use up to here: A fragments, after the wait for
// the wgmmas that read them, and accumulators, before they are read. Takes arrays of floats or
// 32-bit words, of any rank.
template <class Register, int kCount>
__device__ __forceinline__ void keep_registers(Register (&registers)[kCount]) {
  RNC_UNROLL
  for (int i = 0; i < kCount; ++i) {  // by index: nvcc does not unroll long loops over ranges
    if constexpr (std::is_array_v<Register>) {
      keep_registers(registers[i]);
    } else {
      detail::keep_register(registers[i]);
    }
  }
}

}  // namespace rnc::ptx
