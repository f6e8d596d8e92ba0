// mma.sync: D += A B by a warp, operands spread over its registers.
#pragma once

#include <cstdint>

namespace rnc::emulator {

enum class MmaKind : int32_t {
  kM16N8K16Bfloat16,
  kM16N8K16Float16,
  kM16N8K8Bfloat16,
  kM16N8K8TensorFloat32,
  kM8N8K4Float64,
};

#pragma GCC visibility push(hidden)

// A warp tile: accumulators [m_tiles][n_tiles][C], a [m_tiles][A], b [n_tiles][B] registers per
// lane, in place. Registers are floats and 32-bit words, or doubles for kM8N8K4Float64.
void mma_tile(MmaKind kind, void* accumulators, const void* a, const void* b, int32_t m_tiles,
              int32_t n_tiles);

#pragma GCC visibility pop

}  // namespace rnc::emulator
