// Addresses in the shared window: what PTX instructions on shared memory take instead of pointers.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

#if !defined(__CUDACC__)
#include "emulator/shared_window.h"
#endif

namespace rnc::ptx {

// The 32-bit address of `pointer`, which points into the block's own shared memory.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
#if defined(__CUDACC__)
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#else
  return emulator::shared_address(pointer);
#endif
}

}  // namespace rnc::ptx
