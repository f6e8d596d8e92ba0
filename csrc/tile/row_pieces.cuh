// How a group of threads shares 64 rows of a matrix: in pieces of 8 neighbouring elements of a
// row, so that 16-bit elements move as whole 16-byte accesses, and a thread's pieces all lie in the
// same columns, so that what belongs to a column stays in its registers.
#pragma once

#include "kernels/batch_norm/batch_norm_params.h"
#include "tile/element_group.cuh"
#include "tile/thread_group.cuh"

namespace rnc {

template <int kTileColumns, class ThreadGroup, int kPieceElements = kGroupElements>
struct RowPieces {
  using Threads = ThreadGroup;
  static constexpr int kRows = kStatsTileRows;
  static constexpr int kColumns = kTileColumns;
  static constexpr int kThreads = Threads::kCount;
  static constexpr int kElements = kPieceElements;
  static constexpr int kAhead = 1;  // pieces for which a thread loads something at once
  static constexpr int kPerRow = kColumns / kElements;
  static constexpr int kRowsAtOnce = kThreads / kPerRow;
  static constexpr int kPerThread = kRows / kRowsAtOnce;
  static_assert(kColumns % kElements == 0 && kThreads % kPerRow == 0 && kRows % kRowsAtOnce == 0);

  // The first column of the calling thread's pieces, and how many of theirs lie inside `columns`.
  static __device__ __forceinline__ int column() { return Threads::index() % kPerRow * kElements; }
  static __device__ __forceinline__ int count(int columns) {
    return max(0, min(columns - column(), kElements));
  }
  // The row of its i-th piece.
  static __device__ __forceinline__ int row(int i) {
    return Threads::index() / kPerRow + i * kRowsAtOnce;
  }

  // Calls fn(i, row) for the thread's pieces within `rows`.
  template <class Fn>
  static __device__ __forceinline__ void for_each(int rows, Fn&& fn) {
    RNC_UNROLL
    for (int i = 0; i < kPerThread; ++i) {
      if (row(i) < rows) fn(i, row(i));
    }
  }

  // The same, with what is loaded for up to kCount pieces on its way together: calls load(row,
  // loaded) for these before it calls use(row, loaded).
  template <class Loaded, int kCount, class Load, class Use>
  static __device__ __forceinline__ void for_each_loaded(int rows, Load&& load, Use&& use) {
    constexpr int kAhead = kPerThread < kCount ? kPerThread : kCount;
    static_assert(kPerThread % kAhead == 0);
    RNC_UNROLL
    for (int first = 0; first < kPerThread; first += kAhead) {
      Loaded loaded[kAhead];
      RNC_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (row(first + i) < rows) load(row(first + i), loaded[i]);
      }
      RNC_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if (row(first + i) < rows) use(row(first + i), loaded[i]);
      }
    }
  }
};

// The tile of the kernels that work on rows without multiplying: 64 x 64 by 256 threads.
using StatsPieces = RowPieces<64, BlockThreads<256>>;

// Neighbouring elements that one access moves.
template <class Acc>
struct ColumnRun : Vec<Acc, 16 / sizeof(Acc)> {
  static constexpr int kElements = 16 / sizeof(Acc);
};

// Per-channel numbers of neighbouring columns, of which `count` exist; `otherwise` where there is
// no vector. whole: the columns that exist are whole, aligned runs of 16 bytes.
template <class Acc, int kCount = kGroupElements>
struct ColumnVector {
  Acc v[kCount];

  __device__ __forceinline__ ColumnVector(const Acc* vector, int32_t channel, int count,
                                          Acc otherwise, bool whole = false) {
    using Run = ColumnRun<Acc>;
    static_assert(kCount % Run::kElements == 0);
    RNC_UNROLL
    for (int i = 0; i < kCount; i += Run::kElements) {
      if (whole && vector && i < count) {
        const Run run = ptx::load_global_input(reinterpret_cast<const Run*>(vector + channel + i));
        RNC_UNROLL
        for (int e = 0; e < Run::kElements; ++e) v[i + e] = run.v[e];
      } else {
        RNC_UNROLL
        for (int e = 0; e < Run::kElements; ++e) {
          const bool exists = vector && i + e < count;
          v[i + e] = exists ? ptx::load_global_input(vector + channel + i + e) : otherwise;
        }
      }
    }
  }
};

// Rows of columns in shared memory, accessed in pieces and runs. kPadding elements per row keep the
// rows that one access of a warp touches in different banks.
template <class Acc, int kRowCount, int kTileColumns, int kPadding>
struct SpreadRows {
  static constexpr int kColumns = kTileColumns;
  static constexpr bool kAreRounded = false;  // to what will be stored of them
  using Run = ColumnRun<Acc>;
  alignas(Run) Acc v[kRowCount][kColumns + kPadding];

  // kCount neighbouring elements that one access can move.
  template <int kCount>
  __device__ __forceinline__ void put(int row, int column, const Vec<Acc, kCount>& elements) {
    ptx::store_shared(reinterpret_cast<Vec<Acc, kCount>*>(&v[row][spread(row, column)]), elements);
  }

  __device__ __forceinline__ void put(int row, int column, const Acc (&piece)[kGroupElements]) {
    RNC_UNROLL
    for (int i = 0; i < kGroupElements; i += Run::kElements) {
      Run run;
      RNC_UNROLL
      for (int e = 0; e < Run::kElements; ++e) run.v[e] = piece[i + e];
      put<Run::kElements>(row, column + i, run);
    }
  }

  __device__ __forceinline__ Run run(int row, int column) const {
    return ptx::load_shared(reinterpret_cast<const Run*>(&v[row][spread(row, column)]));
  }

  __device__ __forceinline__ void get(int row, int column, Acc (&piece)[kGroupElements]) const {
    RNC_UNROLL
    for (int i = 0; i < kGroupElements; i += Run::kElements) {
      const Run part = run(row, column + i);
      RNC_UNROLL
      for (int e = 0; e < Run::kElements; ++e) piece[i + e] = part.v[e];
    }
  }

  __device__ __forceinline__ Acc& at(int row, int column) { return v[row][spread(row, column)]; }
  __device__ __forceinline__ const Acc& at(int row, int column) const {
    return v[row][spread(row, column)];
  }

 private:
  // Bit 2 of a column is flipped in every other run of 32 columns: then 8 lanes that access 4
  // floats of 8 neighbouring pieces hit 32 different banks. Of rows of at most 32 columns such
  // lanes access several: there it is flipped in every other row.
  static __device__ __forceinline__ int spread(int row, int column) {
    return kColumns > 32 ? column ^ (column >> 3 & 4) : column ^ (row & 1) << 2;
  }
};

// 64 rows of a finished tile in shared memory.
template <class Acc, int kTileColumns, int kPadding>
using StagedRows = SpreadRows<Acc, kStatsTileRows, kTileColumns, kPadding>;

// The same, and a sum that belongs to each row.
template <class Rows, class Acc>
struct RowsWithSums : Rows {
  Acc sums[kStatsTileRows];
};

}  // namespace rnc
