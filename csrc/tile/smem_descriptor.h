// Operands of wgmma in shared memory: the 64-bit descriptor that says where they lie, and the
// swizzles that keep their rows out of each other's banks.
//
// A tile consists of pieces of 8 rows, one row being as wide as the swizzle: 16 (no swizzle), 32,
// 64 or 128 bytes. In a K-major tile the 8 rows are rows of A or columns of B and their bytes run
// along K; in an MN-major tile the 8 rows are steps of K and their bytes run along M or N. Element
// (mn, k) of a tile of 16-bit elements, W being the bytes per row, lies before swizzling at the
// byte offset
//
//   K-major, swizzled        (mn / 8) SBO + (mn % 8) W + 2 k
//   K-major, no swizzle      (mn / 8) SBO + (k / 8) LBO + (mn % 8) 16 + 2 (k % 8)
//   MN-major, swizzled       (2 mn / W) LBO + (k / 8) SBO + (k % 8) W + 2 mn % W
//   MN-major, no swizzle     (mn / 8) SBO + (k / 8) LBO + (k % 8) 16 + 2 (mn % 8)
//
// The swizzle acts on absolute shared-memory addresses: a tile starts at a multiple of 8 W bytes,
// and a step along K within it only adds to the address.
#pragma once

#include <cstdint>

#include "ptx/keywords.h"

namespace rnc {

// The value is log2(bytes per row / 16).
enum class Swizzle : uint8_t { kNone = 0, k32 = 1, k64 = 2, k128 = 3 };

// Bytes of one row of a tile with this swizzle.
__host__ __device__ constexpr uint32_t swizzle_bytes(Swizzle swizzle) {
  return 16u << static_cast<uint32_t>(swizzle);
}

// Where the byte at `offset` of an unswizzled tile goes: of the bits 4 to 6, as many as the swizzle
// has are exclusive-ored with those from bit 7 on.
__host__ __device__ constexpr uint32_t swizzle_offset(uint32_t offset, Swizzle swizzle) {
  const uint32_t chunks = swizzle_bytes(swizzle) / 16;
  return offset ^ ((offset >> 7 & (chunks - 1)) << 4);
}

namespace detail {

// The hardware's code of a swizzle: 1 is the widest.
__host__ __device__ constexpr uint64_t swizzle_code(Swizzle swizzle) {
  return swizzle == Swizzle::kNone ? 0u : 4u - static_cast<uint32_t>(swizzle);
}

// Addresses and offsets have 18 bits, of which the lower 4 are zero and not stored.
__host__ __device__ constexpr uint64_t descriptor_field(uint32_t bytes) {
  return (bytes & 0x3FFFFu) >> 4;
}

__host__ __device__ constexpr uint64_t smem_descriptor(uint32_t address, uint32_t leading_bytes,
                                                       uint32_t stride_bytes, Swizzle swizzle) {
  return descriptor_field(address) | descriptor_field(leading_bytes) << 16 |
         descriptor_field(stride_bytes) << 32 | swizzle_code(swizzle) << 62;
}

}  // namespace detail

// A K-major operand at a shared_address(). `stride_bytes` (SBO) lie between pieces of 8 rows, 8 W
// where they follow one another; `leading_bytes` (LBO) lie between the two halves of K, without
// swizzle only. A step of 32 bytes along K, one wgmma deep, adds 2 to the descriptor of a swizzled
// tile.
__host__ __device__ constexpr uint64_t k_major_descriptor(uint32_t address, Swizzle swizzle,
                                                          uint32_t stride_bytes,
                                                          uint32_t leading_bytes = 16) {
  return detail::smem_descriptor(address, leading_bytes, stride_bytes, swizzle);
}

// An MN-major operand of 16-bit elements. Swizzled: `leading_bytes` lie between pieces along M or N
// (not used where one is wide enough), `stride_bytes` between the steps of 8 along K. Without
// swizzle the two change places, as the formulas above say.
__host__ __device__ constexpr uint64_t mn_major_descriptor(uint32_t address, Swizzle swizzle,
                                                           uint32_t leading_bytes,
                                                           uint32_t stride_bytes) {
  return detail::smem_descriptor(address, leading_bytes, stride_bytes, swizzle);
}

}  // namespace rnc
