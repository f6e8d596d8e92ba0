// The sums of the rows of A that a warp multiplies: one more product, by a column of ones. Its
// accumulators are fp32, and A's fragments are in registers anyway.
#pragma once

#include "ptx/mma_sync.cuh"

namespace rnc {

template <ptx::Mma kKind, int kRows>
struct MmaRowSums {
  using Fragments = ptx::MmaFragments<kKind>;
  using Operand = typename Fragments::Operand;
  using Accumulator = typename Fragments::Accumulator;
  static constexpr int kRowTiles = kRows / Fragments::kM;
  // One, as often as a register holds it.
  static constexpr Operand kOne = kKind == ptx::Mma::kM16N8K16Bfloat16  ? 0x3F803F80u
                                  : kKind == ptx::Mma::kM16N8K16Float16 ? 0x3C003C00u
                                                                        : 0x3F800000u;

  Accumulator sums[kRowTiles][1][Fragments::kC];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (auto& tile : sums) RNC_UNROLL
    for (auto& sum : tile[0]) sum = Accumulator(0);
  }

  // Adds what a step of the multiplication has of A.
  __device__ __forceinline__ void add(const Operand (&fragments_a)[kRowTiles][Fragments::kA]) {
    Operand ones[1][Fragments::kB];
    RNC_UNROLL
    for (auto& one : ones[0]) one = kOne;
    ptx::mma_tile<kKind>(sums, fragments_a, ones);
  }

  // Calls fn(row, sum), each row in one lane: all columns of the product are the same.
  template <class Fn>
  __device__ __forceinline__ void for_each(Fn&& fn) const {
    const int lane = int(threadIdx.x) % 32;
    if (lane % 4 != 0) return;
    RNC_UNROLL
    for (int i = 0; i < kRowTiles; ++i) RNC_UNROLL
    for (int c = 0; c < Fragments::kC; c += 2) {
      fn(i * Fragments::kM + lane / 4 + c * 4, sums[i][0][c]);
    }
  }
};

}  // namespace rnc
