// mma.sync (sm_80): C (M x N) += A (M x K) B (K x N) by a warp, operands spread over its registers.
//
// With g = lane / 4 and t = lane % 4 a lane holds (16-bit elements in pairs, the lower index in the
// lower half of a register):
//
//   A, m16n8k16   a[i]: row g + 8 (i % 2), columns 2 t + 8 (i / 2) and the next
//   A, m16n8k8    a[i]: row g + 8 i, columns 2 t and the next (bfloat16)
//                 a[i]: row g + 8 (i % 2), column t + 4 (i / 2) (tf32)
//   A, m8n8k4     a[0]: row g, column t
//   B             the same with columns of B for rows of A: b[i] has k = 2 t + 8 i and the next
//   (16-bit), t + 4 i
//                 (tf32), t (fp64), in column g
//   C             c[i]: row g + 8 (i / 2), column 2 t + i % 2
#pragma once

#include <cstdint>
#include <type_traits>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/mma_sync.h"
#endif

namespace rnc::ptx {

// Shape and operand type; accumulators are float, double for kM8N8K4Float64. tf32 operands are
// floats of which the upper 19 bits are read.
enum class Mma : int32_t {
  kM16N8K16Bfloat16,
  kM16N8K16Float16,
  kM16N8K8Bfloat16,
  kM16N8K8TensorFloat32,
  kM8N8K4Float64,
};

#if !defined(__CUDACC__)
static_assert(static_cast<int32_t>(Mma::kM8N8K4Float64) ==
              static_cast<int32_t>(emulator::MmaKind::kM8N8K4Float64));
#endif

namespace detail {

template <int M, int N, int K, int A, int B, int C, class OperandType, class AccumulatorType>
struct MmaShape {
  static constexpr int kM = M, kN = N, kK = K;
  static constexpr int kA = A, kB = B, kC = C;  // registers per lane
  using Operand = OperandType;
  using Accumulator = AccumulatorType;
};

}  // namespace detail

// What a lane holds of the operands of one instruction.
template <Mma kKind>
struct MmaFragments;
template <>
struct MmaFragments<Mma::kM16N8K16Bfloat16>
    : detail::MmaShape<16, 8, 16, 4, 2, 4, uint32_t, float> {};
template <>
struct MmaFragments<Mma::kM16N8K16Float16> : detail::MmaShape<16, 8, 16, 4, 2, 4, uint32_t, float> {
};
template <>
struct MmaFragments<Mma::kM16N8K8Bfloat16> : detail::MmaShape<16, 8, 8, 2, 1, 4, uint32_t, float> {
};
template <>
struct MmaFragments<Mma::kM16N8K8TensorFloat32>
    : detail::MmaShape<16, 8, 8, 4, 2, 4, uint32_t, float> {};
template <>
struct MmaFragments<Mma::kM8N8K4Float64> : detail::MmaShape<8, 8, 4, 1, 1, 2, double, double> {};

// C += A B.
template <Mma kKind>
__device__ __forceinline__ void mma(
    typename MmaFragments<kKind>::Accumulator (&c)[MmaFragments<kKind>::kC],
    const typename MmaFragments<kKind>::Operand (&a)[MmaFragments<kKind>::kA],
    const typename MmaFragments<kKind>::Operand (&b)[MmaFragments<kKind>::kB]) {
#if defined(__CUDACC__)
  if constexpr (kKind == Mma::kM16N8K16Bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (kKind == Mma::kM16N8K16Float16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else if constexpr (kKind == Mma::kM16N8K8Bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  } else if constexpr (kKind == Mma::kM16N8K8TensorFloat32) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a[0]), "d"(b[0]));
  }
#else
  emulator::mma_tile(static_cast<emulator::MmaKind>(kKind), c, a, b, 1, 1);
#endif
}

// A warp tile of kMTiles x kNTiles such products. On the host the warp meets once for all of them.
template <Mma kKind, int kMTiles, int kNTiles>
__device__ __forceinline__ void mma_tile(
    typename MmaFragments<kKind>::Accumulator (&c)[kMTiles][kNTiles][MmaFragments<kKind>::kC],
    const typename MmaFragments<kKind>::Operand (&a)[kMTiles][MmaFragments<kKind>::kA],
    const typename MmaFragments<kKind>::Operand (&b)[kNTiles][MmaFragments<kKind>::kB]) {
#if defined(__CUDACC__)
  RNC_UNROLL
  for (int i = 0; i < kMTiles; ++i) {
    RNC_UNROLL
    for (int j = 0; j < kNTiles; ++j) mma<kKind>(c[i][j], a[i], b[j]);
  }
#else
  emulator::mma_tile(static_cast<emulator::MmaKind>(kKind), c, a, b, kMTiles, kNTiles);
#endif
}

}  // namespace rnc::ptx
