// Extent of a grid or a block, and position inside it; the same type for CUDA and for the emulator.
#pragma once

#include <cstdint>

namespace rnc {

struct Dim3 {
  uint32_t x = 1;
  uint32_t y = 1;
  uint32_t z = 1;
};

}  // namespace rnc
