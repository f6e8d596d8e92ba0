// A slice of one operand in shared memory, as mma.sync's operands are loaded from it: kRows rows of
// A or columns of B by as much depth as 64 bytes hold. The swizzles put the 16-byte chunks that one
// ldmatrix or one warp of copies touches into different banks.
#pragma once

#include "tile/smem_descriptor.h"

namespace rnc {

// The depth is contiguous: 64 bytes in each row.
template <int kRowsOfSlice>
struct alignas(1024) OperandSlice {
  static constexpr bool kDepthIsContiguous = true;
  static constexpr int kRows = kRowsOfSlice;
  static constexpr int kRowBytes = 64;
  static constexpr int kChunkBytes = 16;
  // Chunks along the contiguous index, and how often that many follow.
  static constexpr int kChunks = kRowBytes / kChunkBytes;
  static constexpr int kLines = kRows;
  unsigned char bytes[kRows * kRowBytes];

  __device__ __forceinline__ const void* at(int row, int byte) const {
    return bytes + swizzle_offset(uint32_t(row * kRowBytes + byte), Swizzle::k64);
  }
  // Row r of the 8 x 16 bytes whose corner is row `first`, `chunk` along the depth.
  __device__ __forceinline__ const void* matrix_row(int first, int chunk, int r) const {
    return at(first + r, chunk * kChunkBytes);
  }
};

// 16-bit elements of which the rows are contiguous: 32 steps of depth, each with all rows. Loaded
// transposed.
template <int kRowsOfSlice>
struct alignas(1024) TransposedSlice {
  static constexpr bool kDepthIsContiguous = false;
  static constexpr int kRows = kRowsOfSlice;
  static constexpr int kElementBytes = 2;
  static constexpr int kDepth = 64 / kElementBytes;
  static constexpr int kRowBytes = kRows * kElementBytes;
  static constexpr int kChunkBytes = 16;
  static constexpr int kChunks = kRowBytes / kChunkBytes;
  static constexpr int kLines = kDepth;
  // The swizzle permutes runs of 8 chunks, of 4 where a line has no more: then two lines share the
  // banks.
  static constexpr int kRun = kChunks % 8 == 0 ? 8 : 4;
  static_assert(kChunks % kRun == 0);
  unsigned char bytes[kDepth * kRowBytes];

  __device__ __forceinline__ const void* chunk(int line, int chunk) const {
    return bytes + line * kRowBytes + (chunk ^ (line / (8 / kRun) % kRun)) * kChunkBytes;
  }
  __device__ __forceinline__ const void* at(int line, int byte) const {
    return static_cast<const unsigned char*>(chunk(line, byte / kChunkBytes)) + byte % kChunkBytes;
  }
  // Step r of the 8 x 16 bytes whose corner is row `first`, the depth `chunk` times 8.
  __device__ __forceinline__ const void* matrix_row(int first, int chunk, int r) const {
    return this->chunk(chunk * 8 + r, first * kElementBytes / kChunkBytes);
  }
};

}  // namespace rnc
