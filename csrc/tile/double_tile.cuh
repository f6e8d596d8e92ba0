// Products of 64 x 64 elements in float64: four warps of 32 x 32, operands in shared memory, sums
// in registers as mma.m8n8k4 spreads them, with tensor cores or without.
#pragma once

#include "tile/mma_tile.cuh"

namespace rnc {

struct DoubleTile {
  static constexpr int kThreads = 128;
  static constexpr int kLines = 64;  // rows, and columns
  static constexpr int kDepth = 16;  // of a slice
  static constexpr int kWarpLines = 32;
  static constexpr int kWarpsAcross = kLines / kWarpLines;
};

// A slice of one operand, lines of A's rows or B's columns. The swizzle puts the 4 lines of 4 steps
// of depth that half a warp loads into different banks, and keeps pairs of lines together.
struct DoubleSlice {
  static constexpr bool kDepthIsContiguous = false;
  double v[DoubleTile::kDepth][DoubleTile::kLines];

  __device__ __forceinline__ double& at(int depth, int line) {
    return v[depth][line ^ depth % 4 * 4];
  }
  // Element (line + down, depth + along), where `along` is a multiple of 4.
  template <class T>
  __device__ __forceinline__ const T& element(int line, int depth, int down, int along) const {
    return v[depth + along][(line + down) ^ depth * 4];
  }
};

struct DoubleStage {
  DoubleSlice a, b;
};

// The calling lane's elements of the block's tile: accumulators [i][j][c] of its warp's are those
// of row(i) and column(j) + c.
struct DoublePlace {
  static constexpr int kTiles = DoubleTile::kWarpLines / 8;  // along each side of a warp's

  static __device__ __forceinline__ int warp_row() {
    return int(threadIdx.x) / 32 / DoubleTile::kWarpsAcross;
  }
  static __device__ __forceinline__ int warp_column() {
    return int(threadIdx.x) / 32 % DoubleTile::kWarpsAcross;
  }
  static __device__ __forceinline__ int row(int i) {
    return warp_row() * DoubleTile::kWarpLines + i * 8 + int(threadIdx.x) % 32 / 4;
  }
  static __device__ __forceinline__ int column(int j) {
    return warp_column() * DoubleTile::kWarpLines + j * 8 + int(threadIdx.x) % 4 * 2;
  }
};

// A warp's tile on tensor cores (sm_80).
using DoubleMmaTile =
    MmaWarpTile<ptx::Mma::kM8N8K4Float64, DoubleTile::kWarpLines, DoubleTile::kWarpLines>;

// The same without them.
struct DoubleFmaTile {
  using Fragments = DoubleMmaTile::Fragments;
  static constexpr int kRowTiles = DoublePlace::kTiles, kColumnTiles = DoublePlace::kTiles;

  double accumulators[kRowTiles][kColumnTiles][Fragments::kC];

  __device__ __forceinline__ void clear() {
    RNC_UNROLL
    for (auto& row : accumulators) RNC_UNROLL
    for (auto& tile : row) RNC_UNROLL
    for (double& accumulator : tile) accumulator = 0;
  }

  __device__ __forceinline__ void multiply_step(const DoubleSlice& a, int first_row,
                                                const DoubleSlice& b, int first_column, int step) {
    const int row = first_row + int(threadIdx.x) % 32 / 4;
    const int column = first_column + int(threadIdx.x) % 4 * 2;
    RNC_UNROLL
    for (int k = 0; k < Fragments::kK; ++k) {
      double rows[kRowTiles];
      RNC_UNROLL
      for (int i = 0; i < kRowTiles; ++i) {
        rows[i] = a.element<double>(row, k, i * Fragments::kM, step * Fragments::kK);
      }
      RNC_UNROLL
      for (int j = 0; j < kColumnTiles; ++j) RNC_UNROLL
      for (int c = 0; c < Fragments::kC; ++c) {
        const double element =
            b.element<double>(column, k, j * Fragments::kN + c, step * Fragments::kK);
        RNC_UNROLL
        for (int i = 0; i < kRowTiles; ++i) accumulators[i][j][c] += rows[i] * element;
      }
    }
  }
};

// Adds the product of one slice of each operand.
template <class WarpTile>
__device__ __forceinline__ void multiply_doubles(WarpTile& tile, const DoubleStage& stage) {
  constexpr int kSteps = DoubleTile::kDepth / WarpTile::Fragments::kK;
  RNC_UNROLL
  for (int step = 0; step < kSteps; ++step) {
    tile.multiply_step(stage.a, DoublePlace::warp_row() * DoubleTile::kWarpLines, stage.b,
                       DoublePlace::warp_column() * DoubleTile::kWarpLines, step);
  }
}

}  // namespace rnc
