// Where the accumulators of a warpgroup's 64 x N tile lie in its threads, and their way to shared
// memory and back.
#pragma once

#include "ptx/ldmatrix.cuh"
#include "ptx/shared_address.cuh"
#include "tile/packed_pair.cuh"
#include "tile/wgmma_slices.cuh"

namespace rnc {

struct Warpgroup {
  static constexpr int kThreads = 128;
  static constexpr int kWarps = 4;
  static constexpr int kRows = 64;  // of a wgmma's D: 16 for each warp
};

// Calls fn(row, column, first, second) for the calling thread's accumulators; they come in pairs of
// neighbouring columns.
template <int kAccumulators, class Fn>
__device__ __forceinline__ void for_each_accumulator_pair(
    const float (&accumulators)[kAccumulators], Fn&& fn) {
  const int thread = int(threadIdx.x) % Warpgroup::kThreads;
  const int row = thread / 32 * 16 + thread % 32 / 4;
  const int column = thread % 4 * 2;
  RNC_UNROLL
  for (int i = 0; i < kAccumulators; i += 4) {
    fn(row, column + i * 2, accumulators[i], accumulators[i + 1]);
    fn(row + 8, column + i * 2, accumulators[i + 2], accumulators[i + 3]);
  }
}

// A part of a tile that one TMA box with 128-byte swizzle moves, or that wgmma multiplies again: 64
// rows of 64 16-bit elements.
struct TilePanel : KMajorSlice<Warpgroup::kRows> {
  static constexpr int kColumns = 64;
};

// Calls fn(i, row, chunk) for the calling warp's rows of a tile, of which ldmatrix and stmatrix
// move four 8 x 8 matrices at a time: rows 0-7 and 8-15 of two chunks of 8 columns, accumulators i
// .. i + 7 of its threads. The 16 bytes that the thread points at are those of its row in its
// chunk.
template <int kAccumulators, class Fn>
__device__ __forceinline__ void for_each_chunk(Fn&& fn) {
  static_assert(kAccumulators % 8 == 0);
  const int thread = int(threadIdx.x) % Warpgroup::kThreads;
  const int row = thread / 32 * 16 + thread % 16;
  const int right_half = thread % 32 / 16;
  RNC_UNROLL
  for (int i = 0; i < kAccumulators; i += 8) fn(i, row, i / 4 + right_half);
}

// Calls fn(step, address) for kSteps wgmma steps from `first_step` on over a panel that the calling
// thread's warp takes A from: where ldmatrix finds the thread's row of the four matrices that make
// a step's fragment.
template <int kSteps, class Fn>
__device__ __forceinline__ void for_each_step(const unsigned char* panel, int first_step, Fn&& fn) {
  for_each_chunk<kSteps * 8>([&](int i, int row, int chunk) {
    const uint32_t offset = uint32_t(row * kSliceBytes + (2 * first_step + chunk) * 16);
    fn(i / 8, ptx::shared_address(panel) + swizzle_offset(offset, Swizzle::k128));
  });
}

// Calls fn(i, address) for their places in N / 64 panels.
template <int kAccumulators, class Fn>
__device__ __forceinline__ void for_each_panel_chunk(TilePanel* panels, Fn&& fn) {
  for_each_chunk<kAccumulators>([&](int i, int row, int chunk) {
    const uint32_t panel = ptx::shared_address(panels[chunk / 8].bytes);
    const uint32_t offset = uint32_t(row * kSliceBytes + chunk % 8 * 16);
    fn(i, panel + swizzle_offset(offset, Swizzle::k128));
  });
}

// Rounds 8 accumulators from `first` on to T: what a thread has of four matrices, or of a wgmma
// step's A operand of 16 columns.
template <class T, int kAccumulators>
__device__ __forceinline__ void round_chunk(const float (&accumulators)[kAccumulators], int first,
                                            uint32_t (&matrices)[4]) {
  RNC_UNROLL
  for (int m = 0; m < 4; ++m) {
    matrices[m] = pack_pair<T>(accumulators[first + 2 * m], accumulators[first + 2 * m + 1]);
  }
}

// Rounds the warpgroup's 64 x N tile to T and puts it into N / 64 panels.
template <class T, int kAccumulators>
__device__ __forceinline__ void store_to_panels(const float (&accumulators)[kAccumulators],
                                                TilePanel* panels) {
  for_each_panel_chunk<kAccumulators>(panels, [&](int i, uint32_t address) {
    uint32_t matrices[4];
    round_chunk<T>(accumulators, i, matrices);
    ptx::stmatrix<4>(address, matrices);
  });
}

// The same of 64 columns, into the rows of a planar slice from `first_row` on.
template <class T, int kAccumulators, int kRows>
__device__ __forceinline__ void store_to_planes(const float (&accumulators)[kAccumulators],
                                                PlanarSlice<kRows>& slice, int first_row) {
  static_assert(kAccumulators / 4 == PlanarSlice<kRows>::kPlanes);
  for_each_chunk<kAccumulators>([&](int i, int row, int chunk) {
    uint32_t matrices[4];
    round_chunk<T>(accumulators, i, matrices);
    ptx::stmatrix<4>(ptx::shared_address(slice.piece(chunk, first_row + row)), matrices);
  });
}

// Adds what N / 64 panels hold to the warpgroup's 64 x N tile.
template <class T, int kAccumulators>
__device__ __forceinline__ void add_panels(float (&accumulators)[kAccumulators],
                                           TilePanel* panels) {
  for_each_panel_chunk<kAccumulators>(panels, [&](int i, uint32_t address) {
    uint32_t matrices[4];
    ptx::ldmatrix<4>(matrices, address);
    RNC_UNROLL
    for (int m = 0; m < 4; ++m) {
      const Vec<float, 2> pair = unpack_pair<T>(matrices[m]);
      accumulators[i + 2 * m] += pair.v[0];
      accumulators[i + 2 * m + 1] += pair.v[1];
    }
  });
}

}  // namespace rnc
