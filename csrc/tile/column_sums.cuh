// Sums down the columns of 64 rows, always in the same order: rows within a thread, then threads
// from top to bottom.
#pragma once

#include "ptx/memory.cuh"
#include "tile/row_pieces.cuh"

namespace rnc {

// Mean and centred sum of squares of each of a thread's columns, found in one pass: distances are
// taken from the first row. That is a sample itself, so its square is at most as many times the
// centred sum as there are rows: a large mean cancels nothing.
template <class Acc>
struct ColumnMoments {
  Acc first[kGroupElements], sum[kGroupElements], squares[kGroupElements];

  __device__ __forceinline__ ColumnMoments() {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) first[e] = sum[e] = squares[e] = Acc(0);
  }

  // The thread's i-th row.
  __device__ __forceinline__ void add(int i, const Acc (&piece)[kGroupElements]) {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      if (i == 0) {
        first[e] = piece[e];
      } else {
        const Acc distance = piece[e] - first[e];
        sum[e] += distance;
        squares[e] += distance * distance;
      }
    }
  }

  // inverse_rows: 1 / how many there were, or anything finite where there was none.
  __device__ __forceinline__ void finish(Acc inverse_rows, Acc (&mean)[kGroupElements],
                                         Acc (&m2)[kGroupElements]) const {
    RNC_UNROLL
    for (int e = 0; e < kGroupElements; ++e) {
      const Acc distance = sum[e] * inverse_rows;
      mean[e] = first[e] + distance;
      m2[e] = squares[e] - sum[e] * distance;
    }
  }
};

// Two sums for each column. Between two uses of the same shared memory the threads must meet.
template <class Acc, class RowPieces>
struct ColumnSums {
  using Pieces = RowPieces;
  SpreadRows<Acc, Pieces::kRowsAtOnce, Pieces::kColumns, 0> partial[2];

  // Adds up what every thread has of its columns, and writes sums[0] to out[column] and sums[1] to
  // out[stride + column].
  __device__ __forceinline__ void store(const Acc (&first)[kGroupElements],
                                        const Acc (&second)[kGroupElements], int columns, Acc* out,
                                        int64_t stride) {
    publish(first, second);
    // Add those of each column, one thread per column and sum.
    RNC_UNROLL
    for (int i = 0; i < 2 * Pieces::kColumns; i += Pieces::kThreads) {
      const int index = Pieces::Threads::index() + i;
      const int which = index / Pieces::kColumns, column = index % Pieces::kColumns;
      if (which < 2 && column < columns) {
        ptx::store_global(out + which * stride + column,
                          add_up([&](int t) { return partial[which].at(t, column); }));
      }
    }
  }

  // Writes the mean of `rows` rows to out[column], and the centred sum of squares to
  // out[stride + column] (Chan et al. 1983).
  __device__ __forceinline__ void store(const ColumnMoments<Acc>& moments, int rows, int columns,
                                        Acc* out, int64_t stride) {
    // A thread has one row more where the last ones do not go round.
    const int each = rows / Pieces::kRowsAtOnce, rest = rows % Pieces::kRowsAtOnce;
    const auto rows_of = [&](int t) { return t < rest ? Acc(each + 1) : Acc(each); };
    const auto inverse = [](Acc count) { return Acc(1) / count; };
    Acc piece_mean[kGroupElements], piece_m2[kGroupElements];
    moments.finish(rows == Pieces::kRows ? inverse(Acc(Pieces::kPerThread))
                                         : inverse(max(rows_of(Pieces::row(0)), Acc(1))),
                   piece_mean, piece_m2);
    publish(piece_mean, piece_m2);
    // Merge those of each column, one thread per column.
    static_assert(Pieces::kColumns <= Pieces::kThreads);
    const int column = Pieces::Threads::index();
    if (column >= columns) return;
    const auto mean_of = [&](int t) { return partial[0].at(t, column); };
    const Acc mean = add_up([&](int t) { return rows_of(t) * mean_of(t); }) * inverse(Acc(rows));
    const Acc m2 = add_up([&](int t) {
      const Acc distance = mean_of(t) - mean;
      return partial[1].at(t, column) + rows_of(t) * (distance * distance);
    });
    ptx::store_global(out + column, mean);
    ptx::store_global(out + stride + column, m2);
  }

 private:
  __device__ __forceinline__ void publish(const Acc (&first)[kGroupElements],
                                          const Acc (&second)[kGroupElements]) {
    partial[0].put(Pieces::row(0), Pieces::column(), first);
    partial[1].put(Pieces::row(0), Pieces::column(), second);
    Pieces::Threads::sync();
  }

  // value(0) + value(1) + ..., one for each thread above each other, in runs of 8, so that rounding
  // errors do not grow with their number.
  template <class Value>
  static __device__ __forceinline__ Acc add_up(Value&& value) {
    constexpr int kRun = 8;
    static_assert(Pieces::kRowsAtOnce % kRun == 0);
    Acc sum = Acc(0);
    RNC_UNROLL
    for (int first = 0; first < Pieces::kRowsAtOnce; first += kRun) {
      Acc run = Acc(0);
      RNC_UNROLL
      for (int t = 0; t < kRun; ++t) run += value(first + t);
      sum += run;
    }
    return sum;
  }
};

}  // namespace rnc
