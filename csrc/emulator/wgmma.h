// wgmma.mma_async: D (64 x N) += A B by a warpgroup, A and B through shared-memory descriptors (SS)
// or A from registers (RS).
#pragma once

#include <cstdint>

namespace rnc::emulator {

enum class WgmmaType : int32_t { kBfloat16, kFloat16, kTensorFloat32 };

// One instruction as one thread states it. The registers are read and written when the operation
// completes: both arrays must stay where they are, untouched, until wgmma_wait.
struct Wgmma {
  WgmmaType type;
  int32_t n;
  float* accumulators;          // n / 2
  const uint32_t* a_registers;  // 4, or null: descriptor_a
  uint64_t descriptor_a;
  uint64_t descriptor_b;
  bool accumulate;  // scale-d; false: D = A B
  bool transpose_a;
  bool transpose_b;
};

#pragma GCC visibility push(hidden)

void wgmma_fence();
void wgmma(const Wgmma& instruction);
void wgmma_commit();
void wgmma_wait(uint32_t newest_groups_left);

#pragma GCC visibility pop

}  // namespace rnc::emulator
