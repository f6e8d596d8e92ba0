// Operands of wgmma in shared memory: the matrix descriptor, bit by bit, and the canonical layouts
// it names.
//
//   bits  0-13  start address / 16          bits 14-15  zero
//   bits 16-29  leading byte offset / 16    bits 30-31  zero
//   bits 32-45  stride byte offset / 16     bits 46-48  zero
//   bits 49-51  base offset                 bits 52-61  zero
//   bits 62-63  swizzle: 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes
#pragma once

#include <cstddef>
#include <cstdint>

#include "emulator/matrix_multiply.h"

namespace rnc::emulator {

struct Block;

// One operand of one wgmma: `extent` rows of A or columns of B, 32 bytes deep.
struct WgmmaOperand {
  uint32_t start;         // shared-window address
  uint32_t group_stride;  // bytes between groups of 8 rows (K-major), between pieces along M or N
                          // (MN-major)
  uint32_t depth_stride;  // bytes between the two halves of K
  uint32_t row_bytes;     // of a row of a piece: the width of the swizzle, or 16
  uint32_t swizzle_mask;  // of bits 4 to 6
  int32_t extent;
  bool mn_major;
  ElementType type;

  // Where 16 bytes of the operand lie. K-major: element 8 bytes-along-K `half` (0 or 1) of row
  // `index`.
  uint32_t swizzled(uint32_t address) const { return address ^ (address >> 3 & swizzle_mask); }
  uint32_t k_major_chunk(uint32_t index, uint32_t half) const {
    return swizzled(start + index / 8 * group_stride + index % 8 * row_bytes + half * depth_stride);
  }
  // MN-major: elements `first` to `first` + 7 (first % 8 == 0) along M or N at depth k.
  uint32_t mn_major_chunk(uint32_t first, uint32_t k) const {
    const uint32_t bytes = 2 * first;
    return swizzled(start + bytes / row_bytes * group_stride + bytes % row_bytes +
                    k / 8 * depth_stride + k % 8 * row_bytes);
  }
};

// Takes a descriptor apart; abandons the launch with a message where a field is illegal. `name` is
// 'A' or 'B'.
WgmmaOperand decode_operand(uint64_t descriptor, char name, ElementType type, int32_t extent,
                            bool mn_major);

// Abandons the launch unless the operand lies in the block's shared memory.
void check_bounds(Block& block, const WgmmaOperand& operand, char name);

// Calls visit(shared-window address) for each 16 bytes of the operand.
template <class Visit>
void for_each_chunk(const WgmmaOperand& operand, Visit&& visit) {
  const auto extent = static_cast<uint32_t>(operand.extent);
  if (operand.mn_major) {
    for (uint32_t first = 0; first < extent; first += 8) {
      for (uint32_t k = 0; k < 16; ++k) visit(operand.mn_major_chunk(first, k));
    }
  } else {
    for (uint32_t index = 0; index < extent; ++index) {
      for (uint32_t half = 0; half < 2; ++half) visit(operand.k_major_chunk(index, half));
    }
  }
}

// Widens the operand to `out` [k][extent]; `window` is the host address of shared-window address 0.
void load_operand(const WgmmaOperand& operand, const char* window, float* out, int64_t stride);

}  // namespace rnc::emulator
