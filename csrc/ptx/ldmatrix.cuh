// ldmatrix (sm_75) and stmatrix (sm_90): a warp moves 1, 2 or 4 matrices of 8 x 8 16-bit elements
// between shared memory and registers. Lane 8 i + r gives the 16-byte aligned address of row r of
// matrix i; the addresses of lanes without a row are not used. Lane l holds, of each matrix,
// elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4; transposed, of column l / 4.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/ldmatrix.h"
#endif

namespace rnc::ptx {

// `address` is a shared_address().
template <int kMatrices, bool kTransposed = false>
__device__ __forceinline__ void ldmatrix(uint32_t (&registers)[kMatrices], uint32_t address) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4,
                "ldmatrix moves 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  if constexpr (kMatrices == 1 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 1) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(registers[0])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(registers[0]), "=r"(registers[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
                 : "r"(address)
                 : "memory");
  }
#else
  emulator::ldmatrix(registers, kMatrices, kTransposed, &address, 1);
#endif
}

// The same for several instructions. On the host the warp meets once for all of them.
template <bool kTransposed = false, int kInstructions, int kMatrices>
__device__ __forceinline__ void ldmatrix_tile(uint32_t (&registers)[kInstructions][kMatrices],
                                              const uint32_t (&addresses)[kInstructions]) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4,
                "ldmatrix moves 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  RNC_UNROLL
  for (int i = 0; i < kInstructions; ++i) {
    ldmatrix<kMatrices, kTransposed>(registers[i], addresses[i]);
  }
#else
  emulator::ldmatrix(registers[0], kMatrices, kTransposed, addresses, kInstructions);
#endif
}

// The inverse of ldmatrix.
template <int kMatrices, bool kTransposed = false>
__device__ __forceinline__ void stmatrix(uint32_t address, const uint32_t (&registers)[kMatrices]) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4,
                "stmatrix moves 1, 2 or 4 matrices");
#if defined(__CUDACC__)
  if constexpr (kMatrices == 1 && !kTransposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%0], {%1};" ::"r"(address),
                 "r"(registers[0])
                 : "memory");
  } else if constexpr (kMatrices == 1) {
    asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(address),
                 "r"(registers[0])
                 : "memory");
  } else if constexpr (kMatrices == 2 && !kTransposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.shared.b16 [%0], {%1, %2};" ::"r"(address),
                 "r"(registers[0]), "r"(registers[1])
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
                 "r"(registers[0]), "r"(registers[1])
                 : "memory");
  } else if constexpr (!kTransposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
                 : "memory");
  } else {
    asm volatile(
        "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
        "r"(registers[0]), "r"(registers[1]), "r"(registers[2]), "r"(registers[3])
        : "memory");
  }
#else
  emulator::stmatrix(registers, kMatrices, kTransposed, &address, 1);
#endif
}

}  // namespace rnc::ptx
