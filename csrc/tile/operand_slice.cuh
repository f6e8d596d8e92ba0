// A slice of one operand in shared memory, as mma.sync's operands are loaded from it: kRows rows of
// A or columns of B by as much depth as 64 bytes hold. The swizzles put what one ldmatrix, one load
// of fragments' elements or one warp of copies touches into different banks.
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
  template <class T>
  __device__ __forceinline__ const T& element(int row, int depth, int down, int along) const {
    return *static_cast<const T*>(at(row + down, (depth + along) * int(sizeof(T))));
  }
  // Row r of the 8 x 16 bytes whose corner is row `first`, `chunk` along the depth.
  __device__ __forceinline__ const void* matrix_row(int first, int chunk, int r) const {
    return at(first + r, chunk * kChunkBytes);
  }
};

// The rows are contiguous: as many steps of depth as 64 bytes hold elements, each with all rows.
// 16-bit elements are loaded transposed, 32-bit ones one by one.
template <int kRowsOfSlice, int kElementBytesOfSlice>
struct alignas(1024) TransposedSlice {
  static constexpr bool kDepthIsContiguous = false;
  static constexpr int kRows = kRowsOfSlice;
  static constexpr int kElementBytes = kElementBytesOfSlice;
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

  // One chunk of 8 neighbouring lines, or two neighbouring chunks of 4, lie in different banks.
  static __device__ __forceinline__ int offset(int line, int byte) {
    const int swizzle = kRun == 8 ? (line & 3) << 1 | (line >> 2 & 1) : line >> 1 & 3;
    return line * kRowBytes + (byte ^ swizzle * kChunkBytes);
  }
  __device__ __forceinline__ const void* at(int line, int byte) const {
    return bytes + offset(line, byte);
  }
  // Element (row + down, depth + along), where row % 32 < 8, depth < 4, and `down` and `along` are
  // multiples of 8 and 4: then the bits that the swizzle changes only depend on the first two or on
  // the last two, and one address serves many elements.
  template <class T>
  __device__ __forceinline__ const T& element(int row, int depth, int down, int along) const {
    static_assert(sizeof(T) == kElementBytes && kElementBytes == 4 && kRun == 8);
    constexpr int kSwizzled = 8 * kChunkBytes;
    const int lower = offset(depth, row * kElementBytes);
    const int moved = offset(along, down * kElementBytes);
    const int place = (lower ^ moved % kSwizzled) + moved / kSwizzled * kSwizzled;
    return *reinterpret_cast<const T*>(bytes + place);
  }
  // Step r of the 8 x 16 bytes whose corner is row `first`, the depth `chunk` times 8.
  __device__ __forceinline__ const void* matrix_row(int first, int chunk, int r) const {
    return at(chunk * 8 + r, first * kElementBytes);
  }
};

}  // namespace rnc
