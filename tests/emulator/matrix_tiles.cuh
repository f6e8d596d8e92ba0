// What the kernels with matrix instructions share: tiles in shared memory, K-major with 128-byte
// swizzle.
#pragma once

#include <cstdint>

#include "common/vec.h"
#include "ptx/keywords.h"
#include "ptx/ldmatrix.cuh"
#include "ptx/memory.cuh"
#include "ptx/shared_address.cuh"
#include "tile/smem_descriptor.h"

namespace rnc {

constexpr int kRowBytes = 128;  // 64 elements of K

struct Tiles {
  alignas(1024) unsigned char a[64 * kRowBytes];
  alignas(1024) unsigned char b[32 * kRowBytes];
};
struct StagedTiles {
  Tiles stages[2];
};

// d [64][32] = x [64][64 slices] w [32][64 slices]^T, 16-bit elements.
struct ProductParams {
  const uint16_t* x;
  const uint16_t* w;
  float* d;
  int32_t slices;
};

// Copies 64 columns of a matrix, with all threads of the block.
template <int kRows>
__device__ __forceinline__ void copy_rows(unsigned char (&tile)[kRows * kRowBytes],
                                          const uint16_t* matrix, int slices, int slice) {
  using Chunk = Vec<uint32_t, 4>;
  for (uint32_t i = threadIdx.x; i < kRows * 8; i += blockDim.x) {
    const uint32_t row = i / 8, chunk = i % 8;
    const uint16_t* source = matrix + (row * slices + slice) * 64 + chunk * 8;
    *reinterpret_cast<Chunk*>(tile + swizzle_offset(row * kRowBytes + chunk * 16, Swizzle::k128)) =
        ptx::load_global(reinterpret_cast<const Chunk*>(source));
  }
}

__device__ __forceinline__ void copy_slice(Tiles& tiles, const ProductParams& p, int slice) {
  copy_rows<64>(tiles.a, p.x, p.slices, slice);
  copy_rows<32>(tiles.b, p.w, p.slices, slice);
}

template <int kBytes>
__device__ __forceinline__ uint64_t descriptor_of(const unsigned char (&tile)[kBytes]) {
  return k_major_descriptor(ptx::shared_address(tile), Swizzle::k128, 8 * kRowBytes);
}

// The fragment of A for 16 steps of K: warp w of the warpgroup has rows 16 w to 16 w + 15.
__device__ __forceinline__ void load_fragment(uint32_t (&fragment)[4],
                                              const unsigned char (&tile)[64 * kRowBytes],
                                              int step) {
  const uint32_t lane = threadIdx.x % 32, row = threadIdx.x / 32 % 4 * 16 + lane % 16;
  const uint32_t offset = row * kRowBytes + (2 * step + lane / 16) * 16;
  ptx::ldmatrix(fragment, ptx::shared_address(tile) + swizzle_offset(offset, Swizzle::k128));
}

// Stores the sums of thread `thread` of a warpgroup, 32 columns.
__device__ __forceinline__ void store_sums(const ProductParams& p, const float (&sums)[16],
                                           uint32_t thread) {
  RNC_UNROLL
  for (int i = 0; i < 16; ++i) {
    const uint32_t row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
    const uint32_t column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    ptx::store_global(p.d + row * 32 + column, sums[i]);
  }
}

}  // namespace rnc
