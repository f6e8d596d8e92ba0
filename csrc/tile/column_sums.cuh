// Sums down the columns of 64 rows, always in the same order: rows within a thread, then threads
// from top to bottom.
#pragma once

#include "ptx/memory.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

template <class Acc, class RowPieces>
struct ColumnSums {
  using Pieces = RowPieces;
  static_assert(Pieces::kColumns <= Pieces::kThreads, "one thread per column adds up");
  SpreadRows<Acc, Pieces::kRowsAtOnce, Pieces::kColumns, 0> partial;
  SpreadRows<Acc, 1, Pieces::kColumns, 0> total;

  // Leaves the sums of every column in `total`, visible to every thread. `sums`: of the calling
  // thread's pieces.
  __device__ __forceinline__ void reduce(const Acc (&sums)[kGroupElements]) {
    // Publish this thread's sums.
    partial.put(Pieces::row(0), Pieces::column(), sums);
    Pieces::Threads::sync();
    // Add those of each column, one thread per column.
    const int column = Pieces::Threads::index();
    if (column < Pieces::kColumns) {
      // In runs of 8, so that rounding errors do not grow with the number of threads.
      constexpr int kRun = 8;
      static_assert(Pieces::kRowsAtOnce % kRun == 0);
      Acc sum = Acc(0);
      RNC_UNROLL
      for (int first = 0; first < Pieces::kRowsAtOnce; first += kRun) {
        Acc run = Acc(0);
        RNC_UNROLL
        for (int t = 0; t < kRun; ++t) run += partial.at(first + t, column);
        sum += run;
      }
      total.at(0, column) = sum;
    }
    Pieces::Threads::sync();
  }

  // The sum of a column.
  __device__ __forceinline__ Acc of(int column) const { return total.at(0, column); }

  // The same, written to out[column].
  __device__ __forceinline__ void store(const Acc (&sums)[kGroupElements], int columns, Acc* out) {
    reduce(sums);
    const int column = Pieces::Threads::index();
    if (column < columns) ptx::store_global(out + column, of(column));
  }
};

// Writes the mean and the centred sum of squares of every column to mean_out[column],
// m2_out[column]. `value(i, row, piece)` gives the thread's i-th piece. Centring on the 64 rows'
// own mean keeps large means from cancelling in fp32 (Chan et al. 1983).
template <class Acc, class Pieces, class Value>
__device__ __forceinline__ void store_column_statistics(ColumnSums<Acc, Pieces>& shared, int rows,
                                                        int columns, Acc* mean_out, Acc* m2_out,
                                                        Value&& value) {
  // Find the columns' means.
  Acc piece[kGroupElements], sums[kGroupElements] = {};
  Pieces::for_each(rows, [&](int i, int row) {
    value(i, row, piece);
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) sums[e] += piece[e];
  });
  shared.reduce(sums);
  // Square the distances from them.
  const Acc inverse_rows = Acc(1) / Acc(rows);
  Acc mean[kGroupElements];
  shared.total.get(0, Pieces::column(), mean);
  RNC_UNROLL
  for (int e = 0; e < kGroupElements; ++e) {
    mean[e] *= inverse_rows;
    sums[e] = Acc(0);
  }
  Pieces::for_each(rows, [&](int i, int row) {
    value(i, row, piece);
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      const Acc distance = piece[e] - mean[e];
      sums[e] += distance * distance;
    }
  });
  const int column = Pieces::Threads::index();
  const Acc column_mean = column < columns ? shared.of(column) * inverse_rows : Acc(0);
  shared.reduce(sums);
  // Write both, one thread per column.
  if (column < columns) {
    ptx::store_global(mean_out + column, column_mean);
    ptx::store_global(m2_out + column, shared.of(column));
  }
}

}  // namespace rnc
