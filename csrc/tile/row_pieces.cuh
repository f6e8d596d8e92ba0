// How the threads of a block share 64 rows of a matrix: in pieces of 8 neighbouring elements of a
// row, so that 16-bit elements move as whole 16-byte accesses, and a thread's pieces all lie in the
// same columns, so that what belongs to a column stays in its registers.
#pragma once

#include "kernels/batch_norm/batch_norm_params.h"
#include "tile/element_group.cuh"

namespace rnc {

template <int kTileColumns, int kBlockThreads>
struct RowPieces {
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kPerRow = kColumns / kGroupElements;
  static constexpr int kRowsAtOnce = kThreads / kPerRow;
  static constexpr int kPerThread = kRows / kRowsAtOnce;
  static_assert(kColumns % kGroupElements == 0 && kThreads % kPerRow == 0 &&
                kRows % kRowsAtOnce == 0);

  // The first column of the calling thread's pieces, and how many of the 8 lie inside `columns`.
  static __device__ __forceinline__ int column() {
    return int(threadIdx.x) % kPerRow * kGroupElements;
  }
  static __device__ __forceinline__ int count(int columns) {
    return max(0, min(columns - column(), kGroupElements));
  }
  // The row of its i-th piece.
  static __device__ __forceinline__ int row(int i) {
    return int(threadIdx.x) / kPerRow + i * kRowsAtOnce;
  }

  // Calls fn(i, row) for the thread's pieces within `rows`.
  template <class Fn>
  static __device__ __forceinline__ void for_each(int rows, Fn&& fn) {
    RNC_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (row(i) < rows) fn(i, row(i));
    }
  }
};

// The tile of the kernels that work on rows without multiplying: 64 x 64 by 256 threads.
using StatsPieces = RowPieces<64, 256>;

// Per-channel numbers of the calling thread's 8 columns; `otherwise` where there are none.
template <class Acc>
struct ColumnVector {
  Acc v[kGroupElements];

  __device__ __forceinline__ ColumnVector(const Acc* vector, int32_t channel, int count,
                                          Acc otherwise) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      v[e] = vector && e < count ? ptx::load_global_nc(vector + channel + e) : otherwise;
    }
  }
};

// Bit 2 of a column is flipped in every other run of 32 columns: then 8 lanes that access 4 floats
// of 8 neighbouring pieces hit 32 different banks.
__device__ __forceinline__ int spread_column(int column) { return column ^ (column >> 3 & 4); }

// 64 rows of a finished tile in shared memory. kPadding elements per row keep the rows that one
// access of the writing warp touches in different banks. Rows of at most 32 columns, of which a
// reading warp takes several, flip the bit in every other row.
template <class Acc, int kTileColumns, int kPadding>
struct StagedRows {
  static constexpr int kColumns = kTileColumns;
  static constexpr int kHalf = kGroupElements / 2;
  using Half = Vec<Acc, kHalf>;
  alignas(sizeof(Half)) Acc v[kStatsTileRows][kColumns + kPadding];

  // kCount neighbouring elements; kCount divides 4.
  template <int kCount>
  __device__ __forceinline__ void put(int row, int column, const Vec<Acc, kCount>& elements) {
    static_assert(kHalf % kCount == 0);
    *reinterpret_cast<Vec<Acc, kCount>*>(&v[row][spread(row, column)]) = elements;
  }

  __device__ __forceinline__ void put(int row, int column, const Acc (&piece)[kGroupElements]) {
    RNC_UNROLL
    for (int i = 0; i < kGroupElements; i += kHalf) {
      Half half;
      RNC_UNROLL
      for (int e = 0; e < kHalf; ++e) half.v[e] = piece[i + e];
      put<kHalf>(row, column + i, half);
    }
  }

  __device__ __forceinline__ void get(int row, int column, Acc (&piece)[kGroupElements]) const {
    RNC_UNROLL
    for (int i = 0; i < kGroupElements; i += kHalf) {
      const Half half = *reinterpret_cast<const Half*>(&v[row][spread(row, column + i)]);
      RNC_UNROLL
      for (int e = 0; e < kHalf; ++e) piece[i + e] = half.v[e];
    }
  }

 private:
  static __device__ __forceinline__ int spread(int row, int column) {
    return kColumns > 32 ? spread_column(column) : column ^ (row & 1) << 2;
  }
};

}  // namespace rnc
