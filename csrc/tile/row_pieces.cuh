// How the threads of a block share 64 rows of a matrix: in pieces of 8 neighbouring elements of a
// row, so that 16-bit elements move as whole 16-byte accesses, and a thread's pieces all lie in the
// same columns, so that what belongs to a column stays in its registers.
#pragma once

#include "kernels/batch_norm/batch_norm_params.h"
#include "tile/element_group.cuh"

namespace rnc {

template <int kTileColumns, int kBlockThreads, int kPieceElements = kGroupElements>
struct RowPieces {
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = kBlockThreads;
  static constexpr int kElements = kPieceElements;
  static constexpr int kPerRow = kColumns / kElements;
  static constexpr int kRowsAtOnce = kThreads / kPerRow;
  static constexpr int kPerThread = kRows / kRowsAtOnce;
  static_assert(kColumns % kElements == 0 && kThreads % kPerRow == 0 && kRows % kRowsAtOnce == 0);

  // The first column of the calling thread's pieces, and how many of theirs lie inside `columns`.
  static __device__ __forceinline__ int column() { return int(threadIdx.x) % kPerRow * kElements; }
  static __device__ __forceinline__ int count(int columns) {
    return max(0, min(columns - column(), kElements));
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

  // All 8 columns, of a vector of which they start at a multiple of 16 bytes.
  __device__ __forceinline__ ColumnVector(const Acc* vector, int32_t channel) {
    ElementGroup<Acc> loaded;
    loaded.load(vector, channel, kGroupElements, true);
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) v[e] = loaded.v[e];
  }
};

// Bit 2 of a column is flipped in every other run of 32 columns: then 8 lanes that access 4 floats
// of 8 neighbouring pieces hit 32 different banks.
__device__ __forceinline__ int spread_column(int column) { return column ^ (column >> 3 & 4); }

// Neighbouring elements that one access moves.
template <class Acc>
struct SharedRun : Vec<Acc, 16 / sizeof(Acc)> {
  static constexpr int kElements = 16 / sizeof(Acc);
};

// A piece in a row of shared memory whose columns are spread.
template <class Acc>
__device__ __forceinline__ void put_piece(Acc* row, int column,
                                          const Acc (&piece)[kGroupElements]) {
  using Run = SharedRun<Acc>;
  RNC_UNROLL
  for (int i = 0; i < kGroupElements; i += Run::kElements) {
    Run run;
    RNC_UNROLL
    for (int e = 0; e < Run::kElements; ++e) run.v[e] = piece[i + e];
    ptx::store_shared(reinterpret_cast<Run*>(row + spread_column(column + i)), run);
  }
}

template <class Acc>
__device__ __forceinline__ void get_piece(const Acc* row, int column,
                                          Acc (&piece)[kGroupElements]) {
  using Run = SharedRun<Acc>;
  RNC_UNROLL
  for (int i = 0; i < kGroupElements; i += Run::kElements) {
    const Run run = ptx::load_shared(reinterpret_cast<const Run*>(row + spread_column(column + i)));
    RNC_UNROLL
    for (int e = 0; e < Run::kElements; ++e) piece[i + e] = run.v[e];
  }
}

// 64 rows of a finished tile in shared memory. kPadding elements per row keep the rows that one
// access of the writing warp touches in different banks.
template <class Acc, int kTileColumns, int kPadding>
struct StagedRows {
  static constexpr int kColumns = kTileColumns;
  alignas(SharedRun<Acc>) Acc v[kStatsTileRows][kColumns + kPadding];

  // kCount neighbouring elements that one access can move.
  template <int kCount>
  __device__ __forceinline__ void put(int row, int column, const Vec<Acc, kCount>& elements) {
    ptx::store_shared(reinterpret_cast<Vec<Acc, kCount>*>(&v[row][spread_column(column)]),
                      elements);
  }

  __device__ __forceinline__ void get(int row, int column, Acc (&piece)[kGroupElements]) const {
    get_piece(v[row], column, piece);
  }

  __device__ __forceinline__ SharedRun<Acc> run(int row, int column) const {
    return ptx::load_shared(
        reinterpret_cast<const SharedRun<Acc>*>(&v[row][spread_column(column)]));
  }
};

}  // namespace rnc
