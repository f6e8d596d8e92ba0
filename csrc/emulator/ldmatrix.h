// ldmatrix and stmatrix: a warp moves 1, 2 or 4 matrices of 8 x 8 16-bit elements between shared
// memory and registers.
#pragma once

#include <cstdint>

namespace rnc::emulator {

#pragma GCC visibility push(hidden)

// One instruction, or several in a row for which the warp meets once: `addresses` are this lane's
// row addresses, one per instruction: lane 8 i + r names row r of matrix i. `registers`
// [instructions][matrices].
void ldmatrix(uint32_t* registers, uint32_t matrices, bool transposed, const uint32_t* addresses,
              uint32_t instructions);
void stmatrix(const uint32_t* registers, uint32_t matrices, bool transposed,
              const uint32_t* addresses, uint32_t instructions);

#pragma GCC visibility pop

}  // namespace rnc::emulator
