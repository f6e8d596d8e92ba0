// A warp's tile of a grouped convolution of which whole groups are packed into super-groups of 32
// channels and 32 filters: most products of a super-group are zero or belong to no weight, and
// those in which no channel meets a filter of its group are left out.
#pragma once

#include "kernels/conv/conv_problem.h"
#include "tile/mma_tile.cuh"

namespace rnc {

// Which index of A counts the channels that have to meet the columns' group: the depth of fprop and
// dgrad, the rows of wgrad.
enum class PackedAlong { kDepth, kRows };

// 32 x 32 outputs.
template <ptx::Mma kKind, PackedAlong kAlong>
struct PackedGroupsTile {
  static constexpr int kBlockRows =
      kAlong == PackedAlong::kDepth ? kPackedChannels : kDiagonalChannels;
  static constexpr int kBlocksDown = kPackedChannels / kBlockRows;
  static constexpr int kBlocksAcross = kPackedChannels / kDiagonalChannels;
  using Block = MmaWarpTile<kKind, kBlockRows, kDiagonalChannels>;

  Block blocks[kBlocksDown][kBlocksAcross];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (auto& row : blocks) RNC_UNROLL
    for (auto& block : row) block.clear();
  }

  // Adds the products of rows first_row.. of `a` and rows first_column.. of `b` over one slice;
  // diagonal: only those of channels and filters that may share a group of kDiagonalChannels.
  template <class SliceA, class SliceB>
  __device__ __forceinline__ void multiply(const SliceA& a, int first_row, const SliceB& b,
                                           int first_column, bool diagonal) {
    RNC_UNROLL
    for (int step = 0; step < Block::kSteps; ++step) RNC_UNROLL
    for (int i = 0; i < kBlocksDown; ++i) RNC_UNROLL
    for (int j = 0; j < kBlocksAcross; ++j) {
      const int channels = kAlong == PackedAlong::kDepth ? step : i;
      if (diagonal && channels != j) continue;
      blocks[i][j].multiply_step(a, first_row + i * kBlockRows, b,
                                 first_column + j * kDiagonalChannels, step);
    }
  }

  // Calls fn(row, column, first, second) for the calling lane's accumulators; they come in pairs of
  // neighbouring columns.
  template <class Fn>
  __device__ __forceinline__ void for_each_pair(Fn&& fn) const {
    RNC_UNROLL
    for (int i = 0; i < kBlocksDown; ++i) RNC_UNROLL
    for (int j = 0; j < kBlocksAcross; ++j) {
      blocks[i][j].for_each_pair([&](int row, int column, auto first, auto second) {
        fn(i * kBlockRows + row, j * kDiagonalChannels + column, first, second);
      });
    }
  }
};

}  // namespace rnc
