// ldmatrix and stmatrix: a warp moves 1, 2 or 4 matrices of 8 x 8 16-bit elements between shared
// memory and registers.
#pragma once

#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

// `address` is this lane's row address: lane 8 i + r names row r of matrix i.
void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, uint32_t address);
void stmatrix(const uint32_t* registers, uint32_t matrices, bool transposed, uint32_t address);

#pragma GCC visibility pop

}  // namespace rnc::emulator
