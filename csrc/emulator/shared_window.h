// 32-bit addresses of shared memory, as PTX instructions see them. Called by kernels through ptx/.
//
// Bits 0-23 are an offset in the window of one block, which starts at kSharedBase as on the GPU
// (whose first 1024 bytes belong to the system); bits 24-31 are 0 for the block that executes the
// instruction, or 1 + rank of a block of its cluster, as mapa gives them (shared::cluster).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rnc::emulator {

inline constexpr uint32_t kSharedBase = 1024;
inline constexpr uint32_t kRankShift = 24;
inline constexpr uint32_t kSharedOffsetMask = (1u << kRankShift) - 1;

#pragma GCC visibility push(hidden)

uint32_t shared_address(const void* pointer);

#pragma GCC visibility pop

}  // namespace rnc::emulator
