// A leader of the warp, and registers moved between warpgroups.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/warpgroup.h"
#endif

namespace rnc::ptx {

// True in one lane of a converged warp, the same one each time.
__device__ __forceinline__ bool elect_one() {
#if defined(__CUDACC__)
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xFFFFFFFF;\n"
      "selp.b32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected)
      :
      : "memory");
  return elected != 0;
#else
  return emulator::elect_one();
#endif
}

// Registers per thread from here on; executed by all warps of a warpgroup. Increasing waits until
// other warpgroups have given enough back.
template <uint32_t kRegisters>
__device__ __forceinline__ void set_max_registers_increase() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                "a multiple of 8 from 24 to 256");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  emulator::set_max_registers(kRegisters, true);
#endif
}

template <uint32_t kRegisters>
__device__ __forceinline__ void set_max_registers_decrease() {
  static_assert(kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0,
                "a multiple of 8 from 24 to 256");
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#else
  emulator::set_max_registers(kRegisters, false);
#endif
}

}  // namespace rnc::ptx
